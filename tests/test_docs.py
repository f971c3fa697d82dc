"""docs/cache-format.md is true: its code runs as it stands, and the pipeline takes what it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Marker
from pipeline.cache.fused_reader import ensemble_probabilities
from pipeline.cache.marker import encode_id
from pipeline.data.manifests import load_manifest
from stages.config import load_config
from tests.conftest import Project, write_yaml
from tests.models import street

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "cache-format.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
IDS = [
    "a",
    "street/first walk",
    "Straße",
    ".hidden",
    " lead",
    "a~b",
    "50%",
    "x" * 161,
    "ä" * 100,
    "y" * 160,
    "a(1),'+_-.b",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every block of Python and shell, run in order in a folder with the two panoramas; the folder, and the names."""
    folder = tmp_path_factory.mktemp("page")
    project = Project(folder)
    for k, name in enumerate(("street/first walk.png", "street/Straße 2.png")):
        project.add_image(name, street(seed=k))
    write_yaml(
        project.manifest_path, {"name": "my_panoramas", "root": "images", "splits": {"train": {"images": ["**/*"]}}}
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text, "docs/cache-format.md", "exec"), names)  # the page is ours
            elif language == "sh":
                command = text.replace("python ", f"{sys.executable} ", 1)
                done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
    return folder, names


def fused(folder: Path, *overrides: str) -> Artefact:
    manifest, config = load_manifest(folder / "manifest.yaml"), load_config(None, overrides)
    return Cache(str(folder / "cache"), manifest.name).artefact(
        "fused", config.artefacts(manifest.preprocessing).key("fused")
    )


def test_the_page_runs_and_what_it_writes_is_fused(page: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = page
    for settings in (["fusion.rule=ta"], ["fusion.rule=paper", "sam.artefact=my_masks"]):
        artefact = fused(folder, "teacher.artefact=my_model", *settings)
        assert set(artefact.done()) == {"street/first walk", "street/Straße 2"}
        assert (artefact.read("street/Straße 2").array("label") == 13).all()
        assert artefact.failed() == {}


def test_the_masks_of_the_page_are_lifted_round_the_seam(page: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = page
    (masks,) = [a for a in Cache(str(folder / "cache"), "my_panoramas").artefacts() if a.kind == "masks"]
    group = masks.read("street/first walk")
    table, columns = group.array("table"), group.attributes["columns"]
    boxes = table[:, [columns.index(f"box_{side}") for side in "xywh"]].astype(int).tolist()
    # 100..139 of the view at 128 is 228..267 on a panorama of 256 columns
    assert sorted(boxes) == sorted([[20, 8, 40, 32], [30, 16, 20, 8], [228, 8, 40, 32]])


def test_the_formula_of_the_page_is_the_one_of_the_code(page: tuple[Path, dict[str, Any]]) -> None:
    folder, names = page
    config = load_config(None, ["teacher.artefact=my_model", "fusion.rule=ta"])
    group = fused(folder, "teacher.artefact=my_model", "fusion.rule=ta").read("street/first walk")
    np.testing.assert_allclose(names["ensemble"], ensemble_probabilities(group, config.fused_space()), atol=1e-5)
    from pipeline.geometry.upsample import upsample

    values = np.random.default_rng(0).standard_normal((3, 7, 12)).astype(np.float32)
    np.testing.assert_allclose(names["upsample"](values, 26, 4), upsample(values, 4, 26, cyclic=True), atol=1e-5)


@pytest.mark.parametrize("image_id", IDS)
def test_the_name_of_an_image_is_as_the_page_says(page: tuple[Path, dict[str, Any]], image_id: str) -> None:
    assert page[1]["file_name"](image_id) == encode_id(image_id)


def test_the_marker_on_the_page_is_one() -> None:
    (text,) = [text for language, text in BLOCKS if language == "json"]
    data = text.strip().encode()
    body = data.rpartition(b", ")[0]
    data = data.replace(b"0123456789abcdef", sha256(body).hexdigest()[:16].encode())
    assert Marker.from_json(data).to_json() == data


def test_every_array_and_attribute_that_is_written_is_on_the_page(make_project: Callable[..., Project]) -> None:
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    project = make_project(1)
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    for artefact in Cache(project.config().cache, "toy").artefacts():
        section = PAGE.split(f"### `{artefact.kind}`")[1].split("\n### ")[0]
        if artefact.kind == "masks":
            section += PAGE.split("### `sam`")[1].split("\n### ")[0]
        group = artefact.read("p000")
        for name in group.names():
            assert f"`{name}`" in section, (artefact.kind, name)
        for attribute in group.attributes:
            assert f"`{attribute}`" in section + PAGE.split("### Views")[1].split("\n### ")[0], attribute
        for attribute in artefact.attributes():
            assert f"`{attribute}`" in PAGE.split("### Attributes of the root group")[1].split("\n## ")[0], attribute


def test_no_stage_imports_another_and_the_pipeline_imports_none() -> None:
    for path in [*REPOSITORY.glob("pipeline/**/*.py"), *REPOSITORY.glob("stages/*/**/*.py")]:
        package, stage, *_ = path.relative_to(REPOSITORY).parts
        allowed = {stage, "config", "options", "commands"} if package == "stages" else set()
        imported = re.findall(r"^\s*(?:from|import) stages\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(imported) <= allowed, path


def test_every_module_of_the_pipeline_is_in_the_table() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in REPOSITORY.glob("pipeline/*/*.py"):
        assert path.stem == "__init__" or f"`{path.parent.name}/{path.stem}`" in page, path
