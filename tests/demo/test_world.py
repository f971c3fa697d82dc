"""The writer: layout, withheld labels, resuming, other settings."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from demo import world
from demo.splits import Split, WorldSettings, render_sample
from demo.world import main, parse_counts, sample_paths, write_world
from pipeline.core.atomic_files import atomic_write
from pipeline.core.errors import UserError

SETTINGS = WorldSettings()
COUNTS: dict[Split, int] = {"source-val": 2, "target-train": 1}


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_layout_contents_and_withheld_labels(tmp_path: Path) -> None:
    assert write_world(tmp_path, SETTINGS, COUNTS) == 3
    assert sorted(files(tmp_path)) == [
        "images/source-val/source-val-00000.png",
        "images/source-val/source-val-00001.png",
        "images/target-train/target-train-00000.png",
        "instances/source-val/source-val-00000_instanceIds.png",
        "instances/source-val/source-val-00001_instanceIds.png",
        "instances_withheld/target-train/target-train-00000_instanceIds.png",
        "labels/source-val/source-val-00000_labelTrainIds.png",
        "labels/source-val/source-val-00001_labelTrainIds.png",
        "labels_withheld/target-train/target-train-00000_labelTrainIds.png",
        "world.json",
    ]
    frame = render_sample(SETTINGS, "target-train", 0)
    paths = sample_paths(tmp_path, "target-train", 0)
    np.testing.assert_array_equal(np.asarray(Image.open(paths.image)), frame.image)
    np.testing.assert_array_equal(np.asarray(Image.open(paths.labels)), frame.labels.semantic)
    np.testing.assert_array_equal(np.asarray(Image.open(paths.instances)), frame.labels.instance)
    assert Image.open(paths.instances).mode == "I;16"
    recorded = json.loads((tmp_path / "world.json").read_text())
    assert recorded == {"renderer": 1, "size": "half", "shift": "mild", "seed": 0}


def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, out = tmp_path / "complete", tmp_path / "interrupted"
    write_world(complete, SETTINGS, COUNTS)

    def interrupt(path: Path) -> AbstractContextManager[Path]:
        if path.name == "source-val-00001.png":
            raise KeyboardInterrupt
        return atomic_write(path)

    with monkeypatch.context() as patch:
        patch.setattr(world, "atomic_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_world(out, SETTINGS, COUNTS)
    assert not sample_paths(out, "source-val", 1).exist()
    before = sample_paths(out, "source-val", 0).image.stat().st_mtime_ns
    splits: list[Split] = []
    assert write_world(out, SETTINGS, COUNTS, advance=splits.append) == 2
    assert sorted(splits) == ["source-val", "target-train"]
    assert sample_paths(out, "source-val", 0).image.stat().st_mtime_ns == before
    assert files(out) == files(complete)
    assert write_world(out, SETTINGS, COUNTS) == 0


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half an image")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_world(tmp_path, SETTINGS, {"source-val": 1})
    assert list(files(tmp_path)) == ["world.json"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (WorldSettings(shift="strong"), "shift: found 'mild'; expected 'strong'"),
        (WorldSettings(size="full"), "size: found 'half'; expected 'full'"),
        (WorldSettings(seed=4), "seed: found 0; expected 4"),
    ],
)
def test_other_settings_are_rejected(tmp_path: Path, other: WorldSettings, words: str) -> None:
    write_world(tmp_path, SETTINGS, {"source-val": 0})
    with pytest.raises(UserError, match=words):
        write_world(tmp_path, other, {"source-val": 1})
    assert list(files(tmp_path)) == ["world.json"]


def test_a_damaged_settings_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(UserError, match=r"world\.json: found no JSON object"):
        write_world(tmp_path, SETTINGS, COUNTS)


def test_counts_are_parsed_and_checked() -> None:
    assert parse_counts(["target-train=3", "source-val=1,target-test=0"]) == {
        "target-train": 3,
        "source-val": 1,
        "target-test": 0,
    }
    for bad in ("target=3", "target-train", "target-train=-1", ""):
        with pytest.raises(UserError, match=r"--counts: found .*; expected SPLIT=NUMBER"):
            parse_counts([bad])


@pytest.mark.slow
def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_world(one, SETTINGS, COUNTS, workers=1)
    assert write_world(two, SETTINGS, COUNTS, workers=2) == 3
    assert files(one) == files(two)


def test_command_line(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    arguments = ["--out", str(tmp_path), "--counts", "source-val=1", "--workers", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "1 samples rendered, 0 existed" in done.output
    again = CliRunner().invoke(app, arguments)
    assert "0 samples rendered, 1 existed" in again.output
    refused = CliRunner().invoke(app, [*arguments, "--shift", "none"])
    assert refused.exit_code == 2
    assert "shift: found 'mild'; expected 'none'" in refused.output
    assert CliRunner().invoke(app, ["--out", str(tmp_path), "--size", "huge"]).exit_code == 2
