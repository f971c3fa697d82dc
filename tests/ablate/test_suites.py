"""Suites: files that describe tables with ensembles, adapted TAs and students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT, project_file_names
from pipeline.data.images import ImagePreprocessing
from pipeline.data.results import load_results
from stages.ablate.plan import Work, plan
from stages.ablate.stage import Measuring
from stages.ablate.store import Store
from stages.ablate.suite import FOLDER, Suite, Table, expand, read_suite
from stages.commands import make_app, stage_function
from stages.config import Config, load_config
from tests.conftest import Project, write_yaml

STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""


def key(config: Config, students: bool) -> str:
    fused = config.artefacts(ImagePreprocessing()).key("fused")
    return fused + (repr(stage_function("train", "training_key")(config)) if students else "")


def table(project: Project, *rows: dict[str, Any], **suite: Any) -> Table:
    return expand("mine", Suite(rows=list(rows), **suite), project.config_path, [], key)


@pytest.fixture
def trainable(project: Project) -> Project:
    """A project with a tiny student that is trained for two steps, and labels for one panorama."""
    base = PROJECT_ROOT / "mmseg_configs" / "students" / "goodsam_m.py"
    (project.folder / "student.py").write_text(STUDENT.format(base=str(base)))
    config = yaml.safe_load(project.config_path.read_text())
    config["train"] = {"student": str(project.folder / "student.py"), "iterations": 2, "batch_size": 1, "workers": 0}
    config["adapt"] = {"iterations": 2}
    write_yaml(project.config_path, config)
    project.add_image("p000_labelTrainIds.png", np.tile(np.arange(64, dtype=np.uint8)[:, None] // 16, (1, 256)))
    test = {"images": ["p000.png"], "labels": {"replace": [[".png", "_labelTrainIds.png"]]}}
    splits = {"test": test, "train": {"images": ["p001.png", "p002.png"]}}
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": splits})
    return project


def test_groups_expand_to_rows(project: Project) -> None:
    made = table(
        project,
        {"name": "a", "vary": {"fusion.rule": ["ta", "best"]}},
        {"settings": {"fusion.rule": "paper"}, "vary": {"fusion.rule.theta": [0.3, 0.5]}, "rounds": [0, 1]},
    )
    assert made.columns == ["row", "rule", "theta", "rounds"]
    assert [row.values for row in made.combinations] == [
        {"row": "a", "rule": "ta"},
        {"row": "a", "rule": "best"},
        *({"theta": theta, "rounds": rounds} for theta in (0.3, 0.5) for rounds in (0, 1)),
    ]
    assert [row.rounds for row in made.combinations] == [None, None, 0, 1, 0, 1]
    assert made.combinations[-1].config.fusion.rule.theta == 0.5


def test_factors_are_parts_of_the_values_in_the_settings(project: Project) -> None:
    views = [
        {"width": "x0.5", "stride": "x0.5"},
        {"width": "x1", "stride": "x1", "additional": [{"width": "x2", "stride": "x2"}]},
    ]
    small, more = table(project, {"vary": {"sam.views, teacher.views": views}}).combinations
    assert (small.config.sam.views.width, small.config.teacher.views.stride) == (64, 32)
    assert [(v.width, v.stride) for v in more.config.sam.views.additional] == [(256, 128)]
    with pytest.raises(UserError, match=r"fusion.rule: found 'x2', but the settings have no number there"):
        table(project, {"name": "a", "settings": {"fusion.rule": "x2"}})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"vary": {"train.seed": [1, 2]}}], "train.seed: changes no ensemble"),
        ([{"vary": {"fusion.rule": ["none"]}}], "fusion.rule"),
        ([{}, {}], "two rows are named ''"),
        ([{"settings": {"fusion.rule": "ta"}}], "have no name"),
        ([{"vary": {"fusion.rule": ["ta"]}}, {"vary": {"fusion.rule": ["ta"]}}], "two rows are named 'rule ta'"),
    ],
)
def test_what_makes_no_table_is_refused(project: Project, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(project, *rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [("rows: 3", "rows"), ("row: []", "row: unknown key"), ("rows: []", "rows"), ("- 1", "expected a mapping")],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_suite(path)
    with pytest.raises(UserError, match="expected a file or one of components, fusion, goodsam_pp"):
        read_suite("nothing")


@pytest.mark.parametrize("config", ["demo", "sam_vit_h"])
@pytest.mark.parametrize("name", project_file_names(FOLDER))
def test_shipped_suites_fit_the_demo_and_the_full_size(
    name: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT_ROOT)
    for variable in ("SAM_CHECKPOINT", "TA_CHECKPOINT"):
        (tmp_path / variable).touch()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    title, suite = read_suite(name)
    made = expand(title, suite, PROJECT_ROOT / "configs" / f"{config}.yaml", [], key)
    assert made.title == name
    assert suite.description
    keys = {row.config.artefacts(ImagePreprocessing()).key("sam") for row in made.combinations}
    assert len(keys) <= 6, "stage one runs for few settings"


def measure(project: Project, made: Table, **options: Any) -> list[Any]:
    folder = project.folder / "runs"
    return Measuring(project.manifest(), Store(folder / "toy"), folder, **options).rows(
        made.combinations, lambda _: None
    )


def test_students_are_trained_once_for_each_seed(trainable: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = table(trainable, {"vary": {"fusion.rule": ["ta", "best"]}}, students=True, seeds=[0, 1])
    rows = measure(trainable, made, splits=["test"])
    assert [(row.kind, row.values["rule"], row.seed) for row in rows] == [
        *(("ensemble", "ta", None), ("student", "ta", 0), ("student", "ta", 1)),
        *(("ensemble", "best", None), ("student", "best", 0), ("student", "best", 1)),
    ]
    assert all(row.figures["images"] == 1 for row in rows)
    assert len({row.measurement.checkpoint for row in rows}) == 5
    assert rows[0].computed == {"teacher": 3, "fused": 3}, "the panoramas to train on too"
    assert rows[3].computed == {"sam": 3, "masks": 3, "teacher": 0, "fused": 3}
    monkeypatch.setattr("stages.train.stage.train_student", None)  # nothing is trained or scored again
    monkeypatch.setattr("stages.evaluate.stage.evaluate", None)
    again = measure(trainable, made, splits=["test"])
    assert [row.measurement for row in again] == [row.measurement for row in rows]
    assert {count for row in again for count in row.computed.values()} == {0}


def test_rows_that_differ_in_training_share_their_ensemble(trainable: Project) -> None:
    made = table(
        trainable,
        {},
        {"name": "without boundaries", "settings": {"train.overrides": {"model.mka.boundary": 0}}},
        students=True,
    )
    rows = measure(trainable, made, splits=["test"])
    assert [(row.kind, row.name) for row in rows] == [
        ("ensemble", "as in the settings"),
        ("student", "as in the settings"),
        ("student", "row without boundaries"),
    ]
    assert len({row.artefact.key for row in rows}) == 1


def test_rounds_adapt_the_ta_and_leave_the_masks_alone(trainable: Project) -> None:
    made = table(trainable, {}, {"rounds": [1]})
    shipped, adapted = measure(trainable, made, splits=["test"])
    assert shipped.artefact.key != adapted.artefact.key
    assert Path(adapted.config.teacher.model.checkpoint).name == "ta.pth"
    kinds = [artefact.kind for artefact in Cache(shipped.config.cache, "toy").artefacts()]
    assert (kinds.count("sam"), kinds.count("masks"), kinds.count("teacher")) == (1, 1, 3), "round 0 is one too"


def test_a_plan_computes_nothing_and_knows_what_is_there(trainable: Project) -> None:
    rows = {"vary": {"fusion.rule": ["ta", "best"]}}, {"name": "adapted", "rounds": [1]}
    made = table(trainable, *rows, students=True)
    folder = trainable.folder / "runs"
    measuring = Measuring(trainable.manifest(), Store(folder / "toy"), folder, ["test"])

    def planned() -> dict[str, Work]:
        return {
            work.title.partition("/")[0] + f" {n}": work for n, work in enumerate(plan(measuring, made.combinations))
        }

    before = planned()
    assert not Path(trainable.config().cache).exists()
    assert sum(work.missing for work in before.values()) == sum(work.total for work in before.values()) > 0
    assert all(work.seconds is None for work in before.values())
    measuring.rows(made.combinations[:2], lambda _: None)
    after = planned()
    missing = {title: work.missing for title, work in after.items() if work.missing}
    assert set(missing.values()) == {2, 3}, "the adaptation, and two steps of its student"
    assert all(work.seconds is not None and work.seconds > 0 for work in after.values() if work.missing)
    assert all(work.bytes for work in after.values() if work.missing == 3)


def test_the_command_writes_results_of_suites(trainable: Project, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    write_yaml(
        suite, {"description": "Two rules.", "rows": [{"vary": {"fusion.rule": ["ta", "best"]}}], "students": True}
    )
    words = ["ablate", "--json", *trainable.arguments(), "--suite", str(suite), "--split", "test"]
    words += ["--work-dir", str(tmp_path / "runs")]
    listed = CliRunner().invoke(make_app(), [*words, "--plan"])
    assert listed.exit_code == 0, listed.output
    assert json.loads(listed.stdout.splitlines()[-1])["plan"]
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout.splitlines()[-1])
    results = load_results(tmp_path / "runs" / "toy" / "suites" / "mine" / "results.json")
    assert (results.title, results.description, results.splits) == ("mine", "Two rules.", ("test",))
    assert [row.kind for row in results.rows] == [row["kind"] for row in line["rows"]] == ["ensemble", "student"] * 2
    for row in results.rows:
        assert row.figures["mIoU"] == pytest.approx(row.panoramas["p000"]["mIoU"], abs=0.01)
        assert load_config(Path(row.config)).fusion.rule.kind == row.settings["rule"]
        assert (row.checkpoint is not None) == (row.kind == "student")
    refused = CliRunner().invoke(make_app(), [*words, "--vary", "fusion.rule=ta"])
    assert "expected either --vary" in str(refused.exception)
