"""No stage reads the withheld labels of target-train. An audit hook records every opened file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.splits import WorldSettings
from demo.world import write_world
from pipeline.cache.fused_reader import CacheReader
from pipeline.data.manifests import load_manifest
from stages.config import load_config
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import write_yaml

ROOT = Path(__file__).resolve().parents[2]
_opened: list[str] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_record)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Records the paths that this process opens during a test; an audit hook cannot be removed, only disabled."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


def test_the_hook_records_opened_files(opened: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in opened


def test_no_stage_opens_a_withheld_label(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    world = tmp_path / "demo_world"
    write_world(world, WorldSettings(), {"target-train": 1, "target-tune": 1, "target-test": 1})
    assert list(world.glob("labels_withheld/target-train/*.png"))
    assert list(world.glob("instances_withheld/target-train/*.png"))
    text = (ROOT / "data_manifests" / "demo.yaml").read_text().replace("../demo_world", str(world))
    (tmp_path / "demo.yaml").write_text(text)
    views = {"width": 256, "stride": 128}
    teacher = {"kind": "module", "builder": "tests.models:tiny_teacher"}
    write_yaml(
        tmp_path / "config.yaml",
        {"cache": str(tmp_path / "cache"), "sam": {"views": views}, "teacher": {"views": views, "model": teacher}},
    )
    opened: list[str] = request.getfixturevalue("opened")  # begins here: the rendering is not recorded
    manifest, config = load_manifest(tmp_path / "demo.yaml"), load_config(tmp_path / "config.yaml")
    precompute(manifest, config)
    assert fuse(manifest, config).computed == 3
    reader = CacheReader(manifest, config, ("target-train",))
    assert len(reader.ids) == 1
    reader.image(reader.ids[0])
    reader.fused(reader.ids[0])
    assert [record.label_path for record in manifest.select(["target-train"])] == [None]
    assert any("images/target-train" in path for path in opened)
    assert not [path for path in opened if "_withheld/" in path.removeprefix(str(tmp_path))]
