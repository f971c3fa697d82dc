"""Stage three's own decisions: which run is which."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import UserError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.train.stage import check_complete, check_sizes, run_folder
from tests.conftest import Project
from tests.models import street


def test_a_run_is_named_by_its_settings_and_its_panoramas(project: Project) -> None:
    def folder(*overrides: str) -> Path:
        precompute(project.manifest(), project.config(*overrides))
        fuse(project.manifest(), project.config(*overrides))
        return run_folder(Path("runs"), project.manifest(), project.config(*overrides))

    first = folder()
    assert folder() == first
    assert folder("train.workers=0") == first
    assert folder("train.seed=1") != first
    assert folder("fusion.rule=ssa") != first
    project.add_image("p009.png", street(seed=9))
    more = folder()
    assert more != first
    project.add_image("p009.png", street(seed=10))
    assert folder() not in (first, more)
    (project.folder / "images" / "p009.png").unlink()
    assert folder() == first


def test_a_run_is_named_by_the_contents_of_its_configs(project: Project, tmp_path: Path) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    student, schedule = tmp_path / "student.py", tmp_path / "schedule.py"

    def folder() -> Path:
        overrides = (f"train.student={student}", f"train.schedule={schedule}")
        return run_folder(Path("runs"), project.manifest(), project.config(*overrides))

    student.write_text("model = dict(type='EncoderDecoder')\n")
    schedule.write_text("train_cfg = dict(max_iters=10)\n")
    first = folder()
    student.write_text("# the same\nmodel = dict(type='EncoderDecoder')\n")
    assert folder() == first
    schedule.write_text("train_cfg = dict(max_iters=20)\n")
    second = folder()
    assert second != first
    student.write_text("model = dict(type='EncoderDecoder', pretrained=None)\n")
    assert folder() not in (first, second)
    student.unlink()
    with pytest.raises(UserError, match=r"train\.student: found .*; expected a file or one of"):
        folder()


def test_a_replaced_panorama_is_not_trained_on_with_the_old_ones_labels(project: Project) -> None:
    def reader() -> CacheReader:
        return CacheReader(project.manifest(), project.config(), ("train",))

    def update() -> None:
        precompute(project.manifest(), project.config())

    update()
    fuse(project.manifest(), project.config())
    ids = reader().ids
    check_complete(reader(), allow_partial=False)
    project.add_image("p000.png", street(seed=77))
    with pytest.raises(UserError, match=r"1 cannot be trained on, .*p000.* is not the image that was fused"):
        check_complete(reader(), allow_partial=False)
    check_complete(reader(), allow_partial=True)
    assert len(reader().missing) == 1
    assert set(ids) - set(reader().ids) == set(reader().missing)
    update()
    with pytest.raises(UserError, match="was fused from an earlier run of precompute; run fuse again"):
        check_complete(reader(), allow_partial=False)
    fuse(project.manifest(), project.config())
    assert reader().ids == ids


def test_what_is_left_out_makes_another_run(project: Project) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    whole = run_folder(Path("runs"), project.manifest(), project.config())
    project.add_image("p000.png", street(seed=77))
    assert run_folder(Path("runs"), project.manifest(), project.config()) != whole


def test_panoramas_of_two_sizes_are_refused_before_a_batch_of_them(project: Project) -> None:
    project.add_image("p009.png", street(64, 512))
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    reader = CacheReader(project.manifest(), project.config(), ("train",))
    with pytest.raises(UserError, match=r"p009\.png: is 64 x 512 .*, others are 64 x 256, .*preprocessing\.size"):
        check_sizes(reader, project.config().train)
    check_sizes(reader, project.config("train.batch_size=1").train)
    check_sizes(reader, project.config("train.student=goodsam_demo").train)  # which crops


def test_another_number_of_processes_is_another_run(project: Project) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    folders = {run_folder(Path("runs"), project.manifest(), project.config(), count) for count in (1, 2, 4)}
    assert len(folders) == 3
    assert run_folder(Path("runs"), project.manifest(), project.config()) in folders
