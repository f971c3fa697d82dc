"""The dataset checks what a reader returns, seeds augmentation by the sample, and reads ahead."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from pipeline.core.errors import ImageError, UserError
from pipeline.data.samples import FusedSample, Reader
from stages.train import register  # noqa: F401 (registers the transforms)
from stages.train.dataset import PanoramaStore, PseudoLabelDataset
from stages.train.sampler import NumberedSampler
from tests.train.helpers import CLASSES, SPACE, MemoryReader


class Spoiled(MemoryReader):
    """A reader whose every sample is replaced in some fields."""

    def __init__(self, image: np.ndarray | None = None, **fields: Any) -> None:
        super().__init__()
        self.replacement, self.fields = image, fields

    def image(self, image_id: str) -> np.ndarray:
        return super().image(image_id) if self.replacement is None else self.replacement

    def fused(self, image_id: str) -> FusedSample:
        return dataclasses.replace(super().fused(image_id), **self.fields)


def test_a_copy_for_a_loader_process_reads_the_same() -> None:
    reader = MemoryReader(count=3)
    assert isinstance(reader, Reader)
    dataset = PseudoLabelDataset(reader, SPACE)
    assert len(dataset) == 3
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.ids == dataset.ids
    np.testing.assert_array_equal(copy[1]["img"], dataset[1]["img"])
    assert dataset.metainfo["classes"] == CLASSES


def test_supervised_samples_have_no_pseudo_label_arrays() -> None:
    results = PseudoLabelDataset(MemoryReader(supervised=True), SPACE)[0]
    assert {"img", "label"} <= set(results)
    assert not {"stitched", "gate", "weight", "boundary"} & set(results)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Spoiled(image=np.zeros((32, 64), np.uint8)), r"pano/0.png: expected a uint8 \(H, W, 3\) image"),
        (
            Spoiled(image=np.zeros((32, 60, 3), np.uint8)),
            r"expected label uint8 \(32, 60\), found uint8 \(32, 64\)",
        ),
        (Spoiled(label=np.zeros((32, 64), np.int64)), "expected label uint8"),
        (Spoiled(label=np.full((32, 64), 4, np.uint8)), "label 4 found; expected 0..3 or 255"),
        (Spoiled(gate=np.zeros((3, 64), np.uint8)), "expected gate uint8"),
        (
            Spoiled(stitched=np.zeros((5, 8, 16), np.float16)),
            r"expected stitched \(4, h, w\), found \(5, 8, 16\)",
        ),
        (Spoiled(weight=None), "needs gate and weight"),
    ],
)
def test_what_does_not_fit_is_refused(reader: MemoryReader, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PseudoLabelDataset(reader, SPACE)[0]


def test_no_images() -> None:
    with pytest.raises(UserError, match="no images"):
        PseudoLabelDataset(MemoryReader(count=0), SPACE)


def test_the_number_of_a_sample_seeds_its_augmentation() -> None:
    init_default_scope("mmseg")
    pipeline = [{"type": "CyclicShift"}, {"type": "MirrorPanorama"}, {"type": "PhotoMetricDistortion"}]
    dataset = PseudoLabelDataset(MemoryReader(), SPACE, pipeline, seed=3)
    first = dataset[(1, 7)]["img"]
    np.random.rand(5)  # noqa: NPY002 (whatever else has drawn numbers)
    np.testing.assert_array_equal(dataset[(1, 7)]["img"], first)
    assert (dataset[(1, 8)]["img"] != first).any()
    other_seed = PseudoLabelDataset(MemoryReader(), SPACE, pipeline, seed=4)
    assert (other_seed[(1, 7)]["img"] != first).any()


def test_a_dataset_of_some_images() -> None:
    dataset = PseudoLabelDataset(MemoryReader(), SPACE, ids=["pano/2.png", "pano/0.png"])
    assert [dataset[i]["image_id"] for i in range(len(dataset))] == ["pano/2.png", "pano/0.png"]


def draw(count: int, *, skip: int = 0, size: int = 5, seed: int = 1, **options: int) -> list[tuple[int, ...]]:
    sampler = NumberedSampler(size, seed, **options)
    if skip:
        sampler.skip(skip)
    return list(itertools.islice(iter(sampler), count))


def test_processes_share_one_stream_of_samples() -> None:
    """Of two processes each draws every other sample; together they draw the stream of one process."""
    alone = draw(20)
    assert [number for _, number in alone] == list(range(20))
    assert sorted(index for index, _ in alone[:5]) == list(range(5)), "every image once before any twice"
    assert draw(20, seed=2) != alone
    both = [draw(10, rank=rank, world_size=2) for rank in range(2)]
    assert [pair for step in zip(*both, strict=True) for pair in step] == alone
    assert draw(4, skip=6, rank=1, world_size=2) == both[1][6:], "a resumed run continues the stream"


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_samples_name_the_image_that_is_drawn_later(ahead: int, world_size: int) -> None:
    process = {"rank": world_size - 1, "world_size": world_size}
    plain, samples = draw(40, **process), draw(30, ahead=ahead, **process)
    assert [sample[:2] for sample in samples] == plain[:30]
    assert [sample[2] for sample in samples] == [index for index, _ in plain[ahead : ahead + 30]]
    assert draw(19, skip=11, ahead=ahead, **process) == samples[11:], "a resumed run continues the stream"


class ThreadNoting(MemoryReader):
    """Notes the thread of every read image."""

    def __init__(self) -> None:
        super().__init__(height=512, width=1024)
        self.threads: list[str] = []

    def image(self, image_id: str) -> np.ndarray:
        self.threads.append(threading.current_thread().name)
        return super().image(image_id)


@pytest.mark.parametrize("memory", [0, 8])
def test_reading_ahead_changes_no_sample(memory: int) -> None:
    init_default_scope("mmseg")
    pipeline = [{"type": "CyclicShift"}, {"type": "RandomScaleCrop", "crop_size": (256, 256), "scale_range": (1, 2)}]
    readers = ThreadNoting(), ThreadNoting()
    plain, ahead = (PseudoLabelDataset(reader, SPACE, pipeline, memory=memory, seed=3) for reader in readers)
    for item, longer in zip(draw(12, size=4), draw(12, size=4, ahead=2), strict=True):
        expected, sample = plain[item], ahead[longer]
        assert set(sample) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(sample[name], value)
    assert set(readers[0].threads) == {"MainThread"}
    in_main = readers[1].threads.count("MainThread")
    assert in_main < len(readers[1].threads) / 2


def test_an_error_of_reading_ahead_is_raised_when_the_panorama_is_drawn() -> None:
    class Damaged(MemoryReader):
        def fused(self, image_id: str) -> FusedSample:
            raise ImageError(f"{image_id}: is damaged")

    store = PanoramaStore(Damaged(), 0)
    store.prefetch("pano/1.png")
    with pytest.raises(ImageError, match=r"pano/1\.png: is damaged"):
        store.fetch("pano/1.png")


class Counting(MemoryReader):
    def __init__(self) -> None:
        super().__init__(height=512, width=1024)
        self.reads = 0

    def image(self, image_id: str) -> np.ndarray:
        self.reads += 1
        return super().image(image_id)


def test_what_fits_into_memory_is_read_once() -> None:
    stored, read = Counting(), Counting()
    one = 512 * 1024 * (3 + 4) + 4 * 128 * 256 * 2
    assert 2**20 * 8 < 3 * one < 2**20 * 12
    dataset, plain = PseudoLabelDataset(stored, SPACE, memory=8), PseudoLabelDataset(read, SPACE)
    for _ in range(3):
        for index in range(4):
            sample, expected = dataset[index], plain[index]
            for name, value in expected.items():
                np.testing.assert_array_equal(sample[name], value)
            sample["img"][:] = 0  # a transform may change its sample, which must not change the next one
            sample["label"][:] = 0
    assert read.reads == 12
    assert stored.reads == 2 + 3 * 2, "two of four fit"
