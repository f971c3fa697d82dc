"""A cache of format 2, written before settings were renamed, is found and reused, under old and new names.

`cache_format_2.zip` holds two panoramas, their manifests and settings, and all artefacts. Those of
`manifest_old_names.yaml` and `config_old_names.yaml` have other keys, and settings that have other names today.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.core.settings import OldNameWarning
from pipeline.data.manifests import load_manifest
from stages.config import load_config
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.caches import read_arrays

OLD = Path(__file__).parents[1] / "data" / "cache_format_2.zip"
KEYS = {"sam": "3d46e40308cf", "masks": "fddd54884be3", "teacher": "a8c74c535b37", "fused": "5ad032cf6b5c"}
OLD_NAMES_KEYS = {"sam": "4354c8a94b5b", "masks": "4f4a30a14095", "teacher": "a090155aa777", "fused": "550d70dfa73c"}
RENAMED = {"preparation", "lift", "agreement", "duplicate"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_reused(manifest: Path, config: Path, keys: dict[str, str], images: int) -> None:
    """Checks that precompute and fuse compute nothing and find every image in the artefacts `keys`."""
    data, settings = load_manifest(manifest), load_config(config)
    cache = settings.artefact(data, "fused").storage
    before = cache.sizes("")
    reports = [*precompute(data, settings), fuse(data, settings)]
    assert {report.artefact.kind: report.artefact.key for report in reports} == keys
    assert [(report.computed, report.reused, report.failures) for report in reports] == [(0, images, {})] * len(keys)
    assert cache.sizes("") == before


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_cache_of_default_settings_is_reused(folder: Path) -> None:
    assert_reused(folder / "manifest.yaml", folder / "config.yaml", KEYS, images=2)


def test_a_cache_of_settings_with_old_names_is_reused(folder: Path) -> None:
    with pytest.warns(OldNameWarning) as warnings:
        assert_reused(folder / "manifest_old_names.yaml", folder / "config_old_names.yaml", OLD_NAMES_KEYS, images=1)
    old_names = [str(warning.message).split("'")[1] for warning in warnings]
    assert sorted(old_names) == sorted(RENAMED)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_cache_of_settings_with_old_names_is_found_under_the_new_ones(folder: Path) -> None:
    manifest, config = folder / "manifest_new_names.yaml", folder / "config_new_names.yaml"
    old = (folder / "manifest_old_names.yaml").read_text()
    manifest.write_text(old.replace("preparation:", "preprocessing:"))
    text = (folder / "config_old_names.yaml").read_text()
    for before, after in (("lift", "merge"), ("agreement", "merge_iou_thresh"), ("duplicate", "nms_iou_thresh")):
        text = text.replace(f"{before}:", f"{after}:")
    config.write_text(text)
    assert_reused(manifest, config, OLD_NAMES_KEYS, images=1)


def test_every_stored_array_is_read(folder: Path) -> None:
    data, settings = load_manifest(folder / "manifest.yaml"), load_config(folder / "config.yaml")
    for kind, key in KEYS.items():
        artefact = settings.artefact(data, kind)
        assert (artefact.key, artefact.attributes()["format"]) == (key, 2)
        for marker in artefact.markers():
            artefact.verify(marker)
    from pipeline.cache import Cache

    arrays = read_arrays(Cache(settings.cache, data.name))
    assert {name.split("/")[0] for name in arrays} == set(KEYS)
