"""Option groups: files by name, overrides, environment variables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT, find_project_file, project_file_names
from stages.commands import make_app
from stages.config import load_config
from stages.options import ExecutionOptions, RunOptions
from tests.conftest import Project

TEACHERS = PROJECT_ROOT / "mmseg_configs" / "teachers"


# ---- files that come with the project


def test_a_name_is_a_file_of_the_project_unless_such_a_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_project_file("configs", "no_sam", "--config") == PROJECT_ROOT / "configs" / "no_sam.yaml"
    assert find_project_file("data_manifests", Path("densepass"), "x") == PROJECT_ROOT / "data_manifests/densepass.yaml"
    Path("no_sam").write_text("")
    assert find_project_file("configs", "no_sam", "--config") == Path("no_sam")
    (tmp_path / "demo").mkdir()
    assert find_project_file("configs", "demo", "--config") == PROJECT_ROOT / "configs" / "demo.yaml"


@pytest.mark.parametrize("name", ["nosam", "../configs/no_sam", "no_sam.yml", "", "*"])
def test_an_unknown_name_is_refused_with_the_names(name: str) -> None:
    with pytest.raises(UserError, match=r"--config: found '.*'; expected a file or one of demo, .*no_sam, sam_vit_h$"):
        find_project_file("configs", name, "--config")


def test_a_copy_of_the_settings_works_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_CHECKPOINT", "/weights/ta.pth")
    monkeypatch.setenv("SAM_CHECKPOINT", "/weights/sam.pth")
    monkeypatch.chdir(tmp_path)
    for name in project_file_names("configs"):
        copy = tmp_path / "copied" / f"{name}.yaml"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT_ROOT / "configs" / copy.name, copy)
        copied = load_config(copy)
        assert copied == load_config(PROJECT_ROOT / "configs" / copy.name)
        assert copied.teacher.model is not None
        assert copied.teacher.model.config.parent == TEACHERS  # type: ignore[attr-defined]


def test_a_teacher_by_name_has_the_key_of_its_file() -> None:
    model = "teacher.model={{kind: mmseg, random_weights: true, config: {}}}"
    named = load_config(None, [model.format("cgnet_cityscapes")])
    by_path = load_config(None, [model.format(TEACHERS / "cgnet_cityscapes.py")])
    assert named == by_path
    assert named.teacher.key_parts() == by_path.teacher.key_parts()
    with pytest.raises(UserError, match=r"expected a \.py file or one of cgnet_cityscapes, .*segformer_b5_cityscapes"):
        load_config(None, [model.format("cgnet_cityscape")])


# ---- a run


def test_variables_of_the_environment_name_manifest_and_config(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANIFEST", "/nowhere.yaml")
    monkeypatch.setenv("CONFIG", "/nowhere.yaml")
    monkeypatch.setenv("GOODSAM_MANIFEST", str(project.manifest_path))
    monkeypatch.setenv("GOODSAM_CONFIG", str(project.config_path))
    done = CliRunner().invoke(make_app(), ["gc"], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"nothing is cached in {project.config().cache}" in done.stdout


def test_settings_of_a_command_come_after_those_of_the_user(project: Project) -> None:
    run = RunOptions(project.manifest_path, project.config_path, ["train.seed=1"], cache="/elsewhere")
    settings = run.with_settings({"train.seed": 2, "train.split": None, "train.iterations": 7}).read()[1]
    assert (settings.train.seed, settings.train.split, settings.train.iterations) == (2, "train", 7)
    assert settings.cache == "/elsewhere"


def test_a_variable_that_is_not_set_is_kept_for_display_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TA_CHECKPOINT", raising=False)
    run = RunOptions(config=Path("no_sam"))
    assert str(run.read_settings(keep_unset=True).teacher.model.checkpoint) == "${TA_CHECKPOINT}"  # type: ignore[union-attr]
    with pytest.raises(UserError, match="TA_CHECKPOINT is not set"):
        run.read_settings()
    monkeypatch.setenv("TA_CHECKPOINT", "/weights/ta.pth")
    assert str(run.read_settings(keep_unset=True).teacher.model.checkpoint) == "/weights/ta.pth"  # type: ignore[union-attr]


def test_caches_are_those_of_one_or_of_all_data_sets(project: Project) -> None:
    run = RunOptions(config=project.config_path)
    with pytest.raises(UserError, match=r"cache .*: no such folder"):
        run.caches()
    for name in ("toy", "other"):
        (Path(project.config().cache) / name).mkdir(parents=True)
    assert list(run.caches()) == ["other", "toy"]
    assert list(RunOptions(project.manifest_path, project.config_path).caches()) == ["toy"]
    with pytest.raises(UserError, match="--manifest is missing"):
        RunOptions(cache="s3://bucket/cache").caches()


def test_inspect_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        CliRunner().invoke(make_app(), ["inspect", "--cache", str(tmp_path / "none")], catch_exceptions=False)


def test_execution_is_read_from_its_options() -> None:
    execution = ExecutionOptions(2, 3, "tcp://host:1", "1/3").execution()
    assert (execution.workers, execution.threads, execution.scheduler) == (2, 3, "tcp://host:1")
    assert execution.shard == (1, 3)
    with pytest.raises(UserError, match="shards count from 0: 0/3, 1/3, 2/3"):
        ExecutionOptions(shard="3/3").execution()
