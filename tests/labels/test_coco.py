"""COCO's files: the segments on small examples, and pycocotools and a decoder of our own reading what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import UserError
from pipeline.data.labels import load_label_space
from pipeline.geometry.masks import from_masks
from stages.fuse.stage import fuse
from stages.labels.coco import CocoWriter, encode_rle
from stages.labels.segments import Segment, panoptic_segments
from stages.labels.stage import write_labels
from stages.precompute.stage import precompute
from tests.conftest import Project

SPACE = load_label_space("cityscapes19")
ROAD, CAR, PERSON = (SPACE.classes.index(name) for name in ("road", "car", "person"))


def rectangle(rows: slice, columns: list[int], size: tuple[int, int] = (8, 16)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def decode_rle(rle: dict) -> np.ndarray:
    """A slow, obvious decoder of COCO's compressed run lengths, from the description of the format."""
    counts: list[int] = []
    text, k = rle["counts"], 0
    while k < len(text):
        value, shift, more = 0, 0, True
        while more:
            c = ord(text[k]) - 48
            value |= (c & 0x1F) << shift
            more, shift, k = bool(c & 0x20), shift + 5, k + 1
            if not more and c & 0x10:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(rle["size"], order="F")


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_those_of_the_format(seed: int, share: float) -> None:
    pixels = np.random.default_rng(seed).random((5, 9)) < share
    np.testing.assert_array_equal(decode_rle(encode_rle(pixels)), pixels)


def test_masks_of_things_are_instances_and_the_rest_is_one_segment_of_each_class() -> None:
    car, window, person = (
        rectangle(slice(2, 6), [14, 15, 0, 1]),  # across the seam
        rectangle(slice(3, 4), [15, 0]),
        rectangle(slice(2, 6), [5, 6]),
    )
    label = np.full((8, 16), ROAD, np.uint8)
    label[car] = label[2:6, 9:11] = CAR  # the second car has no mask
    label[person] = PERSON
    label[7] = 255
    road = rectangle(slice(6, 8), list(range(16)))
    masks = from_masks([road, car, person, window], 8, 16, cyclic=True)
    ids, segments = panoptic_segments(masks, label, SPACE)
    found = {(segment.category, segment.is_crowd): ids == segment.id for segment in segments}
    assert len(segments) == len(found) == 4
    np.testing.assert_array_equal(found[CAR, False], car)
    np.testing.assert_array_equal(found[PERSON, False], person)
    np.testing.assert_array_equal(found[CAR, True], rectangle(slice(2, 6), [9, 10]))
    np.testing.assert_array_equal(found[ROAD, False], label == ROAD)
    np.testing.assert_array_equal(ids == 0, label == 255)


def random_panorama(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    label = rng.choice([ROAD, CAR, PERSON, 255], (4, 8))[np.arange(8)[:, None] // 2, np.arange(16) // 2]
    masks = [
        rectangle(slice(int(y), int(y) + int(h)), [int(c) % 16 for c in range(x, x + w)])
        for y, h, x, w in rng.integers([0, 1, 0, 1], [6, 4, 16, 9], (12, 4))
    ]
    return label.astype(np.uint8), sorted(masks, key=lambda mask: -mask.sum())


@given(st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_the_seam_is_a_column_like_any_other(seed: int, columns: int) -> None:
    label, masks = random_panorama(seed)

    def segments(shift: int) -> tuple[np.ndarray, list[Segment]]:
        rolled = from_masks([np.roll(mask, shift, axis=1) for mask in masks], 8, 16, cyclic=True)
        return panoptic_segments(rolled, np.roll(label, shift, axis=1), SPACE)

    ids, found = segments(0)
    rolled_ids, rolled = segments(columns)
    np.testing.assert_array_equal(np.roll(ids, columns, axis=1), rolled_ids)
    assert found == rolled


@given(st.integers(0, 2**32 - 1))
def test_every_labelled_pixel_is_in_one_segment_of_its_class(seed: int) -> None:
    label, masks = random_panorama(seed)
    ids, segments = panoptic_segments(from_masks(masks, 8, 16, cyclic=True), label, SPACE)
    category = np.array([255, *(segment.category for segment in segments)])
    np.testing.assert_array_equal(category[ids], label)
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))


def test_no_masks_and_no_labels() -> None:
    masks = from_masks([], 8, 16)
    assert panoptic_segments(masks, np.full((8, 16), 255, np.uint8), SPACE)[1] == []
    assert panoptic_segments(masks, np.full((8, 16), CAR, np.uint8), SPACE)[1] == [Segment(1, CAR, is_crowd=True)]


def test_the_box_of_a_segment_across_the_seam(tmp_path: Path) -> None:
    """`bbox` is what pycocotools computes on the flat image; `bbox_cyclic` goes around."""
    car = rectangle(slice(2, 6), [14, 15, 0])
    label = np.where(car, np.uint8(CAR), np.uint8(ROAD))
    writer = CocoWriter(tmp_path, SPACE)
    assert writer.add("a/b", "a/b.jpg", from_masks([car], 8, 16, cyclic=True), label) == 1
    writer.finish()
    coco = COCO(tmp_path / "coco_instances.json")
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert annotation["bbox"] == [0, 2, 16, 4]
    assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
    assert annotation["bbox_cyclic"] == [14, 2, 3, 4]
    assert annotation["area"] == 12
    assert coco.loadImgs(annotation["image_id"]) == [{"id": 1, "file_name": "a/b.jpg", "width": 16, "height": 8}]


@pytest.fixture
def fused(make_project: Callable[..., Project]) -> Project:
    project = make_project(2)
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    return project


def test_the_files_hold_the_labels_of_the_cache(fused: Project, tmp_path: Path) -> None:
    manifest, config, out = fused.manifest(), fused.config(), tmp_path / "out"
    written = write_labels(manifest, config, out, coco=True)
    reader = CacheReader(manifest, config)
    panoptic = json.loads((out / "coco_panoptic.json").read_text())
    coco = COCO(out / "coco_instances.json")
    assert [image["file_name"] for image in panoptic["images"]] == ["p000.png", "p001.png"]
    assert [category["name"] for category in panoptic["categories"]] == list(SPACE.classes)
    assert {category["name"] for category in coco.loadCats(coco.getCatIds())} == set(SPACE.things)
    assert len(coco.anns) == written.instances > 0
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        image_id = image["file_name"].removesuffix(".png")
        rgb = np.asarray(Image.open(out / "coco_panoptic" / annotation["file_name"])).astype(np.int64)
        ids = rgb @ [1, 256, 256**2]
        label = np.full(ids.shape, 255)
        for info in annotation["segments_info"]:
            pixels = ids == info["id"]
            label[pixels] = info["category_id"]
            assert info["area"] == pixels.sum()
            assert info["bbox"] == coco_mask.toBbox(encode_rle(pixels)).tolist()
        np.testing.assert_array_equal(label, reader.label(image_id))
        instances = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        things = [info for info in annotation["segments_info"] if SPACE.classes[info["category_id"]] in SPACE.things]
        assert len(instances) == sum(not info["iscrowd"] for info in things)
        for instance in instances:
            assert (label[coco.annToMask(instance) == 1] == instance["category_id"]).all()


def test_a_run_that_is_stopped_leaves_no_json(fused: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labels(fused.manifest(), fused.config(), tmp_path, coco=True, ranking=True)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.labels.stage.LabelWriter.rank", stop)
    with pytest.raises(KeyboardInterrupt):
        write_labels(fused.manifest(), fused.config(), tmp_path, coco=True, ranking=True)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".json", ".csv", ".txt")] == []


def test_without_pycocotools_nothing_is_written(
    fused: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match=r"--coco needs pycocotools; expected `pip install goodsam-offline\[coco\]`"):
        write_labels(fused.manifest(), fused.config(), tmp_path / "out", coco=True)
    assert not (tmp_path / "out").exists()


def test_a_rule_without_masks_needs_them_for_coco(make_project: Callable[..., Project], tmp_path: Path) -> None:
    project = make_project(1)
    config = project.config("fusion.rule=ta")
    precompute(project.manifest(), config, only=["teacher"])
    fuse(project.manifest(), config)
    with pytest.raises(UserError, match=r"masks/.*: no such artefact in the cache; expected one made by precompute"):
        write_labels(project.manifest(), config, tmp_path / "out", coco=True)


def test_the_ranking_begins_with_the_least_certain_label(fused: Project, tmp_path: Path) -> None:
    import csv

    import goodsam

    write_labels(fused.manifest(), fused.config(), tmp_path, ranking=True)
    with (tmp_path / "ranking.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    results = goodsam.open(fused.manifest_path, fused.config_path)
    assert len(rows) == len(results)
    for row in rows:
        panorama = results[Path(row["image"]).stem]
        assert float(row["expected_mIoU"]) == pytest.approx(panorama.expected_miou, abs=0.01)
        assert float(row["mean_weight"]) == pytest.approx(panorama.weight.mean(), abs=1e-3)
        assert Path(row["image"]) == panorama.record.path
        np.testing.assert_array_equal(np.asarray(Image.open(row["label"])), panorama.label)
    assert all(float(first["expected_mIoU"]) <= float(then["expected_mIoU"]) for first, then in pairwise(rows))
