"""Rows over one cache: their figures, what is computed for them, what is kept, and what stops them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader, stitched_probabilities
from pipeline.core.errors import UserError
from pipeline.data.results import load_results
from stages.ablate.grid import combinations, parse_vary
from stages.ablate.signals import SIGNALS
from stages.ablate.stage import Measuring, Row
from stages.ablate.store import Store
from stages.ablate.tables import TITLES, ensemble_table, to_json, to_results
from stages.commands import make_app
from stages.config import load_config
from stages.evaluate.stage import evaluate
from tests.caches import finished
from tests.conftest import Project, write_yaml


def run(project: Project, *varied: str, overrides: tuple[str, ...] = (), **options: Any) -> list[Row]:
    grid = combinations(project.config_path, overrides, [parse_vary(text) for text in varied])
    store, manifest = Store(project.folder / "store"), project.manifest()
    return Measuring(manifest, store, project.folder / "runs", **options).rows(grid, lambda _: None)


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    return ensemble_table(rows, list(rows[0].values))


def label(project: Project) -> None:
    """Two of the three panoramas get the labels that rule `ssa` gives them, with a strip that is ignored."""
    run(project, "fusion.rule=ssa")
    reader = CacheReader(project.manifest(), project.config("fusion.rule=ssa"))
    for name in ("p000", "p001"):
        labels = reader.fused(name).label.copy()
        labels[:3] = 255
        project.add_image(f"{name}_labelTrainIds.png", labels)
    labelled = {"images": ["p000.png", "p001.png"], "labels": {"replace": [[".png", "_labelTrainIds.png"]]}}
    splits = {"val": labelled, "train": {"images": ["p002.png"]}}
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": splits})


def untouched(project: Project) -> dict[Path, int]:
    folder = Path(project.config().cache)
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_without_labels_there_are_signals_alone(project: Project) -> None:
    rows = run(project, "fusion.rule=ta,ssa,sepl,paper")
    assert all(set(row.figures) == {"images", "expected_mIoU", *SIGNALS} for row in rows)
    columns, cells = table(rows)
    assert columns == ["rule", "expected", *(TITLES[name] for name in SIGNALS)]
    assert [cell[0] for cell in cells] == ["ta", "ssa", "sepl", "paper"]
    for row in rows:
        l_cc, weight, changed = [], [], []
        for image_id in ("p000", "p001", "p002"):
            group = row.artefact.read(image_id)
            own = group.read_array("label")
            l_cc.append(group.attributes["signals"]["l_cc"])
            weight.append(group.read_array("weight").mean() / 255)
            changed.append(np.mean((own != stitched_probabilities(group).argmax(axis=0)) & (own != 255)))
        assert row.figures["l_cc"] == pytest.approx(np.mean(l_cc), abs=1e-4)
        assert row.figures["weight"] == pytest.approx(100 * np.mean(weight), abs=1e-3)
        assert row.figures["changed"] == pytest.approx(100 * np.mean(changed), abs=1e-3)
    results = to_results("signals", rows, columns, project.manifest(), settings_folder=project.folder / "settings")
    assert [set(row.panoramas["p000"]) for row in results.rows] == [set(SIGNALS)] * 4
    ta, ssa, _, paper = (row.figures for row in rows)
    assert (ta["changed"], ta["weight"], ssa["weight"]) == (0, 100, 100)
    assert ssa["changed"] > 0
    assert 0 < paper["weight"] < 100


def test_with_labels_a_row_says_what_evaluate_says(project: Project) -> None:
    label(project)
    rows = run(project, "fusion.rule.theta=0.3,0.9", "fusion.rule=paper,best", splits=["val"])
    assert [row.values for row in rows] == [
        {"theta": theta, "rule": rule} for theta in (0.3, 0.9) for rule in ("paper", "best")
    ]
    (_, *scores), failures = evaluate(project.manifest(), [row.config for row in rows], splits=["val"])
    assert not failures
    for row, score in zip(rows, scores, strict=True):
        assert not row.failures
        assert {name: row.figures[name] for name in score.figures()} == score.figures()
    low, _, high, _ = (row.figures for row in rows)
    assert low["mIoU"] == high["mIoU"], "theta gates the weight alone"
    assert low["coverage"] > high["coverage"]
    assert table(rows)[0] == ["theta", "rule", *TITLES.values()]
    # panoramas without labels count for the signals only, and other classes may be scored
    (ssa,) = run(project, "fusion.rule=ssa")
    assert (ssa.figures["mIoU"], ssa.figures["images"]) == (100, 2)
    (mapped,) = run(project, "fusion.rule=ssa", label_space="densepass13")
    assert (mapped.figures["mIoU"], len(mapped.figures["IoU"])) == (100, 13)


def test_what_is_done_is_not_done_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    label(project)
    varied = ("teacher.views.stride,sam.views.stride=64,128", "fusion.rule=paper,best")
    run(project, "fusion.rule=paper")
    before = untouched(project)
    rows = run(project, *varied)
    after = untouched(project)
    assert {path: after[path] for path in before} == before
    counts = {kind: len([a for a in Cache(project.config().cache, "toy").artefacts() if a.kind == kind]) for kind in
              ("sam", "masks", "teacher", "fused")}  # fmt: skip
    assert counts == {"sam": 2, "masks": 2, "teacher": 2, "fused": 5}  # the fifth is that of the labels
    scored: list[Any] = []
    monkeypatch.setattr("stages.evaluate.stage.evaluate", lambda *_, **__: scored.append(1))
    assert [to_json(row) for row in run(project, *varied)] == [to_json(row) for row in rows]
    assert untouched(project) == after
    assert not scored
    # other labels are other figures
    project.add_image("p000_labelTrainIds.png", np.zeros((64, 256), np.uint8))
    monkeypatch.undo()
    assert run(project, *varied)[0].figures["mIoU"] < rows[0].figures["mIoU"]


def test_a_rule_without_masks_computes_none(project: Project) -> None:
    run(project, "fusion.pooling.mode=arithmetic,log", overrides=("fusion.rule=ta",))
    kinds = {artefact.kind for artefact in Cache(project.config().cache, "toy").artefacts()}
    assert kinds == {"teacher", "fused"}


def test_an_image_that_fails_leaves_the_others(project: Project) -> None:
    (project.folder / "images" / "p001.png").write_bytes(b"no picture")
    rows = run(project, "fusion.rule=ta,ssa")
    for row in rows:
        assert set(row.failures) == {"p001"}
        assert row.figures["weight"] == 100
        assert set(finished(row.artefact)) == {"p000", "p002"}


@pytest.mark.parametrize(
    ("varied", "options", "message"),
    [
        ("teacher.model=null", {}, "teacher.model is missing"),
        ("fusion.rule=ta", {"splits": ["test"]}, "has no split 'test'"),
        ("fusion.rule=ta", {"label_space": "nowhere"}, "nowhere"),
        ("teacher.views.stride=26,52", {}, "windows of width 52 and stride 52 leave gaps on a panorama 256 wide"),
        ("sam.views.kind=windows,whole", {}, "found kind whole with padding 0"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    project: Project, varied: str, options: dict[str, Any], message: str
) -> None:
    settings = {"name": "toy", "root": "images", "splits": {"train": {"images": ["**/*"]}}}
    write_yaml(project.manifest_path, settings | {"preprocessing": {"size": [64, 256]}})
    overrides = ("teacher.views={width: 52, stride: 26}",) if "stride" in varied else ()
    with pytest.raises(UserError, match=message):
        run(project, varied, overrides=overrides, **options)
    assert not Path(project.config().cache).exists()
    assert not (project.folder / "store").exists()


def command(project: Project, *options: str | Path) -> Result:
    words = ["ablate", "--json", *project.arguments(), "--work-dir", project.folder, *options]
    return CliRunner().invoke(make_app(), [str(word) for word in words])


def test_the_command_writes_table_and_pictures(project: Project, tmp_path: Path) -> None:
    label(project)
    out, sheets = tmp_path / "out" / "table.csv", tmp_path / "sheets"
    views = "sam.views,teacher.views={width: 128, stride: 64},{width: 64, stride: 32}"
    done = command(project, "--vary", views, "--vary", "fusion.rule=ta,paper", "--out", out, "--sheets", sheets)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["stage"], result["panoramas"], result["failed"]) == ("ablate", 3, 0)
    assert [row["settings"]["rule"] for row in result["rows"]] == ["ta", "paper"] * 2
    assert len({row["fused"] for row in result["rows"]}) == 4
    with out.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines[1]["views"] == "width 128, stride 64"
    assert float(lines[1]["mIoU"]) == result["rows"][1]["mIoU"]
    for name in ("p000", "p001", "p002"):
        # two rows with the TA, two with masks, four with labels, each 64 + 18 high, and the legend
        width, height = Image.open(sheets / f"{name}.jpg").size
        assert width == 3 * 256
        assert 8 * 82 < height < 9 * 82
    again = command(project, "--vary", views, "--vary", "fusion.rule=ta,paper", "--out", tmp_path / "table.json")
    repeated = json.loads(again.stdout.splitlines()[-1])
    assert repeated["rows"] == result["rows"]
    assert set(repeated["computed"].values()) == {0}
    written = load_results(tmp_path / "table.json")
    assert [row.settings for row in written.rows] == [row["settings"] for row in result["rows"]]
    assert [row.keys["fused"] for row in written.rows] == [row["fused"] for row in result["rows"]]
    assert all(row.figures["mIoU"] == shown["mIoU"] for row, shown in zip(written.rows, result["rows"], strict=True))
    for row in written.rows:
        settings = load_config(Path(row.config))
        assert settings.artefacts(project.manifest().preprocessing).key("fused") == row.keys["fused"]


def test_the_command_tells_failures_by_its_exit_status(project: Project, tmp_path: Path) -> None:
    (project.folder / "images" / "p001.png").write_bytes(b"no picture")
    done = command(project, "--vary", "fusion.rule=ta", "--sheets", tmp_path / "sheets")
    assert done.exit_code == 3
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 1
    assert "p001: failed: " in done.output
    assert sorted(path.stem for path in (tmp_path / "sheets").iterdir()) == ["p000", "p002"]
    refused = command(project, "--vary", "fusion.rule=ta", "--out", tmp_path / "table.txt")
    assert isinstance(refused.exception, UserError)
    assert "expected a file that ends in .csv or .json" in str(refused.exception)
