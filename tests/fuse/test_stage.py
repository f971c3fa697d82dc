"""Stage two from store to store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from pipeline.cache.groups import read_mask_sets
from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.execution.executor import Execution
from stages.fuse.pooling import nearest_window
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project, write_yaml
from tests.models import street

RULES = ["ta", "ssa", "paper", "boundary", "best", "goodsampp", "sepl", "sgml"]


def fused_arrays(project: Project, image_id: str, *overrides: str) -> dict[str, np.ndarray]:
    config, manifest = project.config(*overrides), project.manifest()
    key = config.artefacts(manifest.preprocessing).key("fused")
    group = Cache(config.cache, manifest.name).artefact("fused", key).read(image_id)
    return {name: group.read_array(name) for name in group.array_names()}


@pytest.mark.parametrize("rule", [*RULES, "{kind: paper, composition: likelier}"])
def test_a_rolled_panorama_gives_the_rolled_pseudo_labels(project: Project, rule: str) -> None:
    """Images rolled by every multiple of the stride, through all of stage one and two, pixel for pixel."""
    image = street(96, 256, seed=3)
    for steps in range(4):
        project.add_image(f"rolled_{steps}.png", np.roll(image, 64 * steps, axis=1))
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config(f"fusion.rule={rule}"))
    base = fused_arrays(project, "rolled_0", f"fusion.rule={rule}")
    assert len(np.unique(base["label"])) > 3
    for steps in range(1, 4):
        rolled = fused_arrays(project, f"rolled_{steps}", f"fusion.rule={rule}")
        for name in {"label", "gate", "weight", "boundary"} & set(base):
            np.testing.assert_array_equal(rolled[name], np.roll(base[name], 64 * steps, axis=1))
        np.testing.assert_array_equal(rolled["stitched"], np.roll(base["stitched"], 64 * steps // 4, axis=-1))
        if rule == "paper":
            np.testing.assert_array_equal(rolled["window_label"], np.roll(base["window_label"], steps, axis=0))


def test_the_labels_of_each_window_are_read_with_the_windows(project: Project) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config("fusion.rule=paper"))
    sample = CacheReader(project.manifest(), project.config("fusion.rule=paper")).fused("p000")
    assert sample.window_label is not None
    window, column = nearest_window(sample.windows, 256)
    np.testing.assert_array_equal(sample.window_label[window, :, column].T, sample.label)
    fuse(project.manifest(), project.config("fusion.rule=ssa"))
    other = CacheReader(project.manifest(), project.config("fusion.rule=ssa")).fused("p000")
    assert (other.windows, other.window_label) == ((), None)


def test_the_ensemble_is_stored_exactly_and_factorised(project: Project) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config("fusion.rule=ta"))
    arrays = fused_arrays(project, "p000", "fusion.rule=ta")
    assert arrays["stitched"].shape == (19, 16, 64)
    assert arrays["stitched"].dtype == np.float16
    np.testing.assert_allclose(np.exp(arrays["stitched"].astype(np.float32)).sum(axis=0), 1, atol=2e-2)
    assert {arrays[name].dtype for name in ("label", "gate", "weight")} == {np.dtype(np.uint8)}
    assert arrays["label"].shape == (64, 256)


@pytest.mark.parametrize("rule", ["paper", "best"])
def test_threads_and_a_dask_cluster_give_the_same_bytes(project: Project, tmp_path: Path, rule: str) -> None:
    precompute(project.manifest(), project.config())
    contents = []
    for k, execution in enumerate([Execution(), Execution(threads=3), Execution(workers=2)]):
        shutil.copytree(tmp_path / "cache", tmp_path / f"copy_{k}")
        change = (f"cache={tmp_path / f'copy_{k}'}", f"fusion.rule={rule}")
        assert fuse(project.manifest(), project.config(*change), execution=execution).computed == 3
        arrays = [fused_arrays(project, f"p00{i}", *change) for i in range(3)]
        contents.append([{name: values.tobytes() for name, values in image.items()} for image in arrays])
    assert contents[0] == contents[1] == contents[2]


def test_b_ref_is_stored_where_there_are_masks(project: Project) -> None:
    precompute(project.manifest(), project.config())
    found = []
    for change in ("fusion.boundary_radius=null", "fusion.boundary_radius=4", "fusion.boundary_radius=1"):
        fuse(project.manifest(), project.config("fusion.rule=ssa", change))
        found.append(fused_arrays(project, "p000", "fusion.rule=ssa", change)["boundary"])
        assert (found[-1].dtype, found[-1].shape, found[-1].max()) == (np.uint8, (64, 256), 1)
    np.testing.assert_array_equal(found[0], found[1])  # the TA's output stride
    assert (found[1] != found[2]).any()
    fuse(project.manifest(), project.config("fusion.rule=ta"))
    assert "boundary" not in fused_arrays(project, "p000", "fusion.rule=ta")


def test_nan_logits_fail_their_image_only(project: Project) -> None:
    (report,) = precompute(project.manifest(), project.config(), only=["teacher"])
    group = report.artefact.read("p001")
    logits = group.read_array("logits").copy()
    logits[0, 0, 0, 0] = np.nan
    marker = report.artefact.find_marker("p001")
    assert marker is not None
    with report.artefact.write("p001", source=marker.source) as writer:
        writer.attributes |= group.attributes
        writer.add_array("logits", logits)
    fused = fuse(project.manifest(), project.config("fusion.rule=ta"))
    assert fused.computed == 2
    assert list(fused.failures) == ["p001"]
    assert "hold NaN" in fused.failures["p001"]


def test_fusing_into_another_label_space_runs_no_model_again(project: Project) -> None:
    precompute(project.manifest(), project.config())
    report = fuse(project.manifest(), project.config("fusion.label_space=densepass13", "fusion.rule=ssa"))
    assert report.computed == 3
    arrays = fused_arrays(project, "p000", "fusion.label_space=densepass13", "fusion.rule=ssa")
    assert arrays["stitched"].shape[0] == 13
    assert arrays["label"].max() < 13
    assert precompute(project.manifest(), project.config("fusion.label_space=densepass13"))[2].computed == 0


class Notes(SilentProgress):
    """Collects notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_a_manifest_in_other_classes_than_the_ensemble_is_warned_of(project: Project) -> None:
    precompute(project.manifest(), project.config())

    def warnings(*overrides: str) -> list[str]:
        notes = Notes()
        assert fuse(project.manifest(), project.config("fusion.rule=ta", *overrides), progress=notes).failures == {}
        return [text for text in notes.texts if text.startswith("warning")]

    assert warnings() == []
    space = {"name": "two", "classes": ["flat", "rest"], "palette": [[0, 0, 0], [9, 9, 9]]}
    space["mappings"] = {"cityscapes19": [0, 0] + [1] * 17}
    write_yaml(project.folder / "two.yaml", space)
    settings = {"name": "toy", "root": "images", "splits": {"train": {"images": ["*"]}}}
    write_yaml(project.manifest_path, settings | {"label_space": "two.yaml"})
    (warning,) = warnings()
    assert "manifest.yaml: label_space: found 2 classes" in warning
    assert "19 classes of teacher.label_space (cityscapes19)" in warning
    change = warning.rpartition("set ")[2]
    assert change == f"fusion.label_space={project.folder / 'two.yaml'}"
    assert warnings(change) == []
    assert fused_arrays(project, "p000", "fusion.rule=ta", change)["stitched"].shape[0] == 2
    assert warnings("fusion.label_space=cityscapes19") == []


def test_the_per_window_rule_refuses_views_that_differ(project: Project) -> None:
    change = "sam.views.stride=128"
    precompute(project.manifest(), project.config(change))
    report = fuse(project.manifest(), project.config(change))
    assert all("expects equal sam.views and teacher.views" in reason for reason in report.failures.values())
    assert fuse(project.manifest(), project.config(change, "fusion.rule=ssa")).computed == 3


def test_missing_artefacts_of_stage_one_are_refused(project: Project) -> None:
    missing = r"teacher/\w+: no such artefact in the cache; expected one made by precompute with the same settings$"
    with pytest.raises(UserError, match=missing):
        fuse(project.manifest(), project.config())


def test_what_is_fused_by_another_rule_is_told(project: Project) -> None:
    precompute(project.manifest(), project.config())
    key = fuse(project.manifest(), project.config("fusion.rule=ssa")).artefact.key
    with pytest.raises(
        UserError, match=rf"made by fuse .* found those of other settings: {key} \(fusion.rule.kind: ssa\)$"
    ):
        CacheReader(project.manifest(), project.config("fusion.rule=ta")).artefact.attributes()


def test_classes_that_do_not_match_are_refused(project: Project) -> None:
    precompute(project.manifest(), project.config())
    with pytest.raises(UserError, match=r"holds logits of 19 classes, but teacher.label_space densepass13 has 13"):
        fuse(project.manifest(), project.config("teacher.label_space=densepass13"))


def test_incomplete_upstream_fails_the_missing_images_only(project: Project) -> None:
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"t": {"images": ["p000.png"]}}})
    precompute(project.manifest(), project.config())
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"t": {"images": ["*"]}}})
    report = fuse(project.manifest(), project.config())
    assert report.computed == 1
    assert set(report.failures) == {"p001", "p002"}
    assert "not computed" in report.failures["p001"]


def test_an_ensemble_made_elsewhere_is_not_computed_into(project: Project) -> None:
    precompute(project.manifest(), project.config())
    with pytest.raises(UserError, match=r"fusion.artefact: found 'theirs'"):
        fuse(project.manifest(), project.config("fusion.artefact=theirs"))


def test_a_replaced_image_is_not_fused_with_old_masks(project: Project) -> None:
    """Rule ssa reads masks and logits: both must be of the same picture."""
    precompute(project.manifest(), project.config())
    project.add_image("p000.png", street(seed=44))
    precompute(project.manifest(), project.config(), only=["teacher"])
    report = fuse(project.manifest(), project.config("fusion.rule=ssa"))
    assert list(report.failures) == ["p000"]


def test_a_rule_of_ones_own_is_one_file(project: Project) -> None:
    precompute(project.manifest(), project.config())
    rule = "fusion.rule={kind: 'tests.rules:Extra', value: 9}"
    assert fuse(project.manifest(), project.config(rule)).computed == 3
    assert (fused_arrays(project, "p001", rule)["extra"] == 9).all()


def write_by_hand(folder: Path, kind: str, image_id: str, arrays: dict, attributes: dict, chunks: dict) -> None:
    """An artefact as docs/cache-format.md describes it, with plain zarr and json; nothing of this project is used."""
    root = zarr.open_group(folder, mode="a", zarr_format=3)
    root.attrs.update({"format": 1, "kind": kind, "key": folder.name})
    group = root.create_group(f"images/{image_id}/by-hand", attributes=attributes)
    for name, values in arrays.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks[name], config={"write_empty_chunks": True}
        )
        array[...] = values
    (folder / "done").mkdir(exist_ok=True)
    (folder / "done" / f"{image_id}.json").write_text(json.dumps({"id": image_id, "attempt": "by-hand"}))


@pytest.mark.parametrize("rule", RULES)
def test_artefacts_written_by_hand_are_fused(project: Project, tmp_path: Path, rule: str) -> None:
    cache = tmp_path / "cache" / "toy"
    views = [[0, x, 64, 128] for x in (0, 64, 128, 192)]
    logits = np.zeros((4, 19, 16, 32), np.float16)
    logits[:, 5] = 3  # everywhere class 5
    planes = np.zeros((4, 64, 128), np.uint16)
    planes[:, 10:20, 30:60] = 1
    table = np.array([[view, 0] for view in range(4)], np.float64)  # one mask in each view, on its first plane
    for k in range(3):
        write_by_hand(
            cache / "teacher" / "mine", "teacher", f"p00{k}", {"logits": logits},
            {"image_size": [64, 256], "views": views, "output_stride": 4}, {"logits": (1, 19, 16, 32)},
        )  # fmt: skip
        write_by_hand(
            cache / "sam" / "mine", "sam", f"p00{k}",
            {"planes": planes, "plane_view": np.arange(4, dtype=np.uint16), "table": table},
            {"image_size": [64, 256], "views": views, "columns": ["view", "plane"]},
            {"planes": (1, 64, 128), "plane_view": (4,), "table": (4, 2)},
        )  # fmt: skip
    config = project.config("teacher.artefact=mine", "teacher.model=null", "sam.artefact=mine", f"fusion.rule={rule}")
    reports = precompute(project.manifest(), config)
    assert [(r.artefact.kind, r.computed) for r in reports] == [("masks", 3)]
    masks = reports[0].artefact.read("p000")
    assert len(read_mask_sets(masks, [(64, 256)])[0]) == 4
    report = fuse(project.manifest(), config)
    assert (report.computed, report.failures) == (3, {})
    assert (report.artefact.read("p002").read_array("label") == 5).all()


@pytest.mark.parametrize(
    ("attributes", "logits", "message"),
    [
        ({"views": [[0, 0, 64, 300]]}, np.zeros((1, 19, 16, 32)), "does not fit 64 x 256"),
        ({"image_size": None}, np.zeros((1, 19, 16, 32)), r"expected attributes image_size \[H, W\]"),
        ({"output_stride": 5}, np.zeros((1, 19, 16, 32)), "output_stride is 5, expected a divisor of the width 256"),
        ({}, np.zeros((4, 13, 16, 32)), r"expected \(views, classes, h, w\) = \(4, 19, 16, 32\)"),
        ({}, np.full((4, 19, 16, 32), np.nan), "hold NaN"),
        ({}, np.zeros((4, 19, 16)), "expected 4 axes"),
    ],
)
def test_a_foreign_artefact_that_does_not_fit_fails_with_a_reason(
    project: Project, tmp_path: Path, attributes: dict, logits: np.ndarray, message: str
) -> None:
    good = {"image_size": [64, 256], "views": [[0, x, 64, 128] for x in (0, 64, 128, 192)], "output_stride": 4}
    folder = tmp_path / "cache" / "toy" / "teacher" / "mine"
    for k in range(3):
        write_by_hand(folder, "teacher", f"p00{k}", {"logits": logits.astype(np.float16)}, good | attributes,
                      {"logits": (1, *logits.shape[1:])})  # fmt: skip
    report = fuse(project.manifest(), project.config("teacher.artefact=mine", "fusion.rule=ta"))
    import re

    assert len(report.failures) == 3
    assert re.search(message, report.failures["p000"])
