"""Stage one: only what must be computed is computed, and a bad image stops nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cache import Cache, freshness
from pipeline.core.errors import UserError
from pipeline.execution.executor import Execution
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.caches import finished
from tests.conftest import Project, write_yaml
from tests.models import street


def computed(project: Project, *overrides: str, **more: object) -> dict[str, int]:
    reports = precompute(project.manifest(), project.config(*overrides), **more)  # type: ignore[arg-type]
    return {report.artefact.kind: report.computed for report in reports}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its modification time and inode: a file that was touched in any way differs."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_a_second_run_recomputes_and_writes_nothing(project: Project, tmp_path: Path) -> None:
    assert computed(project) == {"sam": 3, "masks": 3, "teacher": 3}
    before = snapshot(tmp_path / "cache")
    assert computed(project) == {"sam": 0, "masks": 0, "teacher": 0}
    assert snapshot(tmp_path / "cache") == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("teacher.model.options={seed: 1}", {"sam": 0, "masks": 0, "teacher": 3}),
        ("masks.filter.min_area=50", {"sam": 0, "masks": 3, "teacher": 0}),
        ("masks.merge.merge_iou_thresh=0.8", {"sam": 0, "masks": 3, "teacher": 0}),
        ("sam.generator={kind: felzenszwalb, min_size: 31}", {"sam": 3, "masks": 3, "teacher": 0}),
        ("fusion.rule=ssa", {"sam": 0, "masks": 0, "teacher": 0}),
        ("fusion.rule={kind: paper, theta: 0.6}", {"sam": 0, "masks": 0, "teacher": 0}),
    ],
)
def test_only_what_depends_on_a_setting_is_computed_again(
    project: Project, tmp_path: Path, change: str, expected: dict[str, int]
) -> None:
    computed(project)
    before = snapshot(tmp_path / "cache")
    assert computed(project, change) == expected
    after = snapshot(tmp_path / "cache")
    assert {path: after.get(path) for path in before} == before


def test_another_rule_fuses_anew_and_touches_nothing_else(project: Project, tmp_path: Path) -> None:
    computed(project)
    assert fuse(project.manifest(), project.config()).computed == 3
    before = snapshot(tmp_path / "cache")
    assert fuse(project.manifest(), project.config("fusion.rule=ssa")).computed == 3
    assert fuse(project.manifest(), project.config()).computed == 0
    after = snapshot(tmp_path / "cache")
    assert {path: after.get(path) for path in before} == before


def test_order_addition_replacement_and_removal(project: Project) -> None:
    def run() -> tuple[dict[str, int], int]:
        return computed(project), fuse(project.manifest(), project.config()).computed

    assert run() == ({"sam": 3, "masks": 3, "teacher": 3}, 3)
    images = ["p002.png", "p000.png", "p001.png"]
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"other": {"images": images}}})
    assert run() == ({"sam": 0, "masks": 0, "teacher": 0}, 0)
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"train": {"images": ["*"]}}})
    project.add_image("a_first.png", street(seed=9))
    assert run() == ({"sam": 1, "masks": 1, "teacher": 1}, 1)
    project.add_image("p001.png", street(seed=10))
    assert run() == ({"sam": 1, "masks": 1, "teacher": 1}, 1)
    (project.folder / "images" / "p000.png").unlink()
    assert run() == ({"sam": 0, "masks": 0, "teacher": 0}, 0)
    os.utime(project.folder / "images" / "p001.png")
    assert run() == ({"sam": 0, "masks": 0, "teacher": 0}, 0)


def test_a_bad_image_is_recorded_the_others_go_on_and_the_next_run_retries(project: Project) -> None:
    good = (project.folder / "images" / "p001.png").read_bytes()
    (project.folder / "images" / "p001.png").write_bytes(good[: len(good) // 2])
    reports = precompute(project.manifest(), project.config())
    for report in reports:
        assert report.computed == 2
        assert list(report.failures) == ["p001"]
        assert "cannot be decoded" in report.failures["p001"]
    report = fuse(project.manifest(), project.config())
    assert report.computed == 2
    assert "teacher: " in report.failures["p001"]
    assert "cannot be decoded" in report.failures["p001"]
    (project.folder / "images" / "p001.png").write_bytes(good)
    assert computed(project) == {"sam": 1, "masks": 1, "teacher": 1}
    assert fuse(project.manifest(), project.config()).computed == 1


def test_an_image_that_went_bad_takes_its_old_results_with_it(project: Project) -> None:
    computed(project)
    (project.folder / "images" / "p001.png").write_bytes(b"")
    reports = precompute(project.manifest(), project.config())
    assert [list(report.failures) for report in reports] == [["p001"]] * 3
    assert list(fuse(project.manifest(), project.config()).failures) == ["p001"]


def test_nan_logits_fail_their_image_only(project: Project) -> None:
    project.add_image("bright.png", np.full((64, 256, 3), 255, np.uint8))
    reports = precompute(
        project.manifest(), project.config("teacher.model={kind: module, builder: 'tests.models:nan_teacher'}")
    )
    teacher = reports[-1]
    assert teacher.computed == 3
    assert "NaN" in teacher.failures["bright"]


def test_more_masks_than_the_table_holds_fail_their_image_only(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add_image("plain.png", np.full((64, 256, 3), 99, np.uint8))
    monkeypatch.setattr("pipeline.geometry.masks.MAX_MASKS", 2)
    sam = precompute(project.manifest(), project.config())[0]
    assert sam.computed == 1
    assert sorted(sam.failures) == ["p000", "p001", "p002"]
    assert "found more than 2 masks, expected at most as many; raise the smallest area" in sam.failures["p000"]


def test_odd_images_are_just_images(project: Project) -> None:
    grey = street(seed=5)[..., 0]
    Image.fromarray(street(seed=4)).convert("P").save(project.folder / "images" / "palette.png")
    Image.fromarray(street(seed=4)).convert("RGBA").save(project.folder / "images" / "alpha.png")
    Image.fromarray(grey).save(project.folder / "images" / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(project.folder / "images" / "deep.png")
    Image.fromarray(street(seed=6)).save(project.folder / "images" / "Straße mit Löchern & %.png")
    project.add_image("constant.png", np.full((64, 256, 3), 99, np.uint8))
    project.add_image("other_size.png", street(96, 512))
    assert computed(project) == {"sam": 10, "masks": 10, "teacher": 10}
    assert fuse(project.manifest(), project.config()).computed == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.model.options={classes: 13}"], "cityscapes19 has 19 classes, but the TA gives 13"),
        (["teacher.model.options={stride: 3}"], "an output stride that divides the view's width"),
        (["teacher.model.builder=tests.models:none"], "'tests.models:none' cannot be imported"),
        (["teacher.model.checkpoint=nowhere.pth"], "nowhere.pth: no such file"),
        (["teacher.model=null"], "teacher.model is missing; expected a TA"),
        (["sam.views.kind=whole"], "sam.views: found kind whole with padding 0"),
        (["sam.generator=sam"], "sam.generator.checkpoint: is missing"),
        (["device=cuda:7"], "torch sees no CUDA device"),
        (["teacher.artefact=elsewhere"], "teacher/elsewhere: no such artefact"),
    ],
)
def test_what_cannot_work_is_refused_before_any_image_is_done(
    project: Project, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        precompute(project.manifest(), project.config(*overrides))
    cache = Cache(str(tmp_path / "cache"), "toy")
    assert all(not finished(artefact) for artefact in cache.artefacts())


def test_pinhole_photos_are_refused(project: Project) -> None:
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "projection": "pinhole",
                                       "splits": {"train": {"images": ["*"]}}})  # fmt: skip
    with pytest.raises(UserError, match="projection: found 'pinhole', expected erp"):
        precompute(project.manifest(), project.config())


def test_a_cache_of_another_format_is_refused(project: Project, tmp_path: Path) -> None:
    computed(project)
    for path in (tmp_path / "cache").glob("toy/teacher/*/zarr.json"):
        document = json.loads(path.read_text())
        document["attributes"] = {**document["attributes"], "format": 99}
        del document["attributes"]["checksum"]
        path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="'format' is 99, expected 2"):
        precompute(project.manifest(), project.config())
    with pytest.raises(UserError, match="'format' is 99, expected 2"):
        fuse(project.manifest(), project.config())


def test_two_data_sets_share_a_cache_folder_without_meeting(make_project: Callable[..., Project]) -> None:
    first, second = make_project(2, name="first"), make_project(2, name="second")
    second.add_image("p000.png", street(seed=77))
    assert computed(first)["sam"] == 2
    assert computed(second)["sam"] == 2
    assert computed(first)["sam"] == 0


def test_a_touched_image_is_read_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the data set has other times; not every run may read all of it."""
    computed(project)
    for path in (project.folder / "images").iterdir():
        os.utime(path, (1e9, 1e9))
    read: list[Path] = []
    digest = freshness.file_digest
    monkeypatch.setattr(freshness, "file_digest", lambda path: read.append(path) or digest(path))
    assert set(computed(project).values()) == {0}
    assert 3 <= len(read) <= 6  # by sam and by teacher
    read.clear()
    assert set(computed(project).values()) == {0}
    assert read == []
    fuse(project.manifest(), project.config())
    for artefact in Cache(project.config().cache, "toy").artefacts():
        for marker in artefact.markers():
            artefact.verify(marker)


def test_shards_together_are_the_whole(project: Project) -> None:
    counts = [computed(project, only=["teacher"], execution=Execution(shard=(k, 2)))["teacher"] for k in range(2)]
    assert sorted(counts) == [1, 2]
    assert computed(project, only=["teacher"]) == {"teacher": 0}


def test_threads_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    def contents(cache: Path) -> dict[str, str]:
        opened = Cache(str(cache), "toy")
        return {f"{a.path}/{i}": m.content for a in opened.artefacts() for i, m in finished(a).items()}

    precompute(project.manifest(), project.config())
    precompute(project.manifest(), project.config(f"cache={tmp_path / 'other'}"), execution=Execution(threads=3))
    assert contents(tmp_path / "cache") == contents(tmp_path / "other")
    assert len(contents(tmp_path / "cache")) == 9
