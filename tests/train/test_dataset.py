"""The dataset checks what a reader returns, pickles by its spec, and opens the reader once per process."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from pipeline.core.errors import ImageError, UserError
from pipeline.data.samples import FusedSample, Reader
from stages.train import register  # noqa: F401 (registers the transforms)
from stages.train.dataset import PseudoLabelDataset, open_reader
from stages.train.sampler import NumberedSampler
from tests.train.helpers import CLASSES, PALETTE, MemoryReader

META = {"classes": CLASSES, "palette": PALETTE}
SPEC = {"type": "tests.train.helpers:memory_reader", "count": 3}


class Spoiled(MemoryReader):
    """A reader whose every sample is replaced in some fields."""

    def __init__(self, image: np.ndarray | None = None, **fields: Any) -> None:
        super().__init__()
        self.replacement, self.fields = image, fields

    def image(self, image_id: str) -> np.ndarray:
        return super().image(image_id) if self.replacement is None else self.replacement

    def fused(self, image_id: str) -> FusedSample:
        return dataclasses.replace(super().fused(image_id), **self.fields)


def test_reads_through_a_spec_and_survives_pickling() -> None:
    dataset = PseudoLabelDataset(SPEC, META)
    assert isinstance(dataset.reader, Reader)
    assert dataset.reader is dataset.reader
    assert len(dataset) == 3
    again = pickle.loads(pickle.dumps(dataset))
    assert again.ids == dataset.ids
    np.testing.assert_array_equal(again[1]["img"], dataset[1]["img"])
    assert dataset.metainfo["classes"] == CLASSES


def test_supervised_samples_have_no_pseudo_label_arrays() -> None:
    results = PseudoLabelDataset(MemoryReader(supervised=True), META)[0]
    assert {"img", "label"} <= set(results)
    assert not {"stitched", "gate", "weight", "boundary"} & set(results)


@pytest.mark.parametrize("name", ["", "nothing", "no.such:thing", "tests.train.helpers:absent", ":x"])
def test_unknown_reader(name: str) -> None:
    with pytest.raises(UserError, match="importable 'module:function'"):
        open_reader({"type": name})


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
        PseudoLabelDataset(reader, META)[0]


def test_no_images() -> None:
    with pytest.raises(UserError, match="no images"):
        PseudoLabelDataset(MemoryReader(count=0), META)


def test_the_number_of_a_sample_seeds_its_augmentation() -> None:
    init_default_scope("mmseg")
    pipeline = [{"type": "CyclicShift"}, {"type": "MirrorPanorama"}, {"type": "PhotoMetricDistortion"}]
    dataset = PseudoLabelDataset(MemoryReader(), META, pipeline, seed=3)
    first = dataset[(1, 7)]["img"]
    np.random.rand(5)  # noqa: NPY002 (whatever else has drawn numbers)
    np.testing.assert_array_equal(dataset[(1, 7)]["img"], first)
    assert (dataset[(1, 8)]["img"] != first).any()
    other_seed = PseudoLabelDataset(MemoryReader(), META, pipeline, seed=4)
    assert (other_seed[(1, 7)]["img"] != first).any()


def test_a_dataset_of_some_images() -> None:
    dataset = PseudoLabelDataset(MemoryReader(), META, ids=["pano/2.png", "pano/0.png"])
    assert [dataset[i]["image_id"] for i in range(len(dataset))] == ["pano/2.png", "pano/0.png"]


def test_processes_share_one_stream_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes each draws every other sample; together they draw what one process draws."""

    def drawn(rank: int, world: int, count: int, skip: int = 0) -> list[tuple[int, int]]:
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (rank, world))
        sampler = NumberedSampler(range(5), seed=1)
        if skip:
            sampler.skip(skip)
        return list(itertools.islice(iter(sampler), count))

    alone = drawn(0, 1, 20)
    assert [number for _, number in alone] == list(range(20))
    assert sorted(index for index, _ in alone[:5]) == list(range(5)), "every image once before any twice"
    both = [drawn(rank, 2, 10) for rank in range(2)]
    assert [pair for step in zip(*both, strict=True) for pair in step] == alone
    assert drawn(1, 2, 4, skip=6) == both[1][6:], "a resumed run goes on in the stream"


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_samples_tell_what_is_drawn_later(monkeypatch: pytest.MonkeyPatch, ahead: int, world: int) -> None:
    monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (world - 1, world))
    plain = list(itertools.islice(iter(NumberedSampler(range(5), seed=1)), 40))
    told = NumberedSampler(range(5), seed=1, ahead=ahead)
    found = list(itertools.islice(iter(told), 30))
    assert [sample[:2] for sample in found] == plain[:30]
    assert [sample[2] for sample in found] == [index for index, _ in plain[ahead : ahead + 30]]
    told.skip(11)
    assert list(itertools.islice(iter(told), 19)) == found[11:], "a resumed run goes on in the stream"


@pytest.mark.parametrize("memory", [0, 8])
def test_reading_ahead_changes_no_sample(memory: int) -> None:
    """All but the first ones are read by another thread; nothing stays behind of what was drawn."""

    class Noting(MemoryReader):
        def __init__(self) -> None:
            super().__init__(height=512, width=1024)
            self.threads: list[str] = []

        def image(self, image_id: str) -> np.ndarray:
            self.threads.append(threading.current_thread().name)
            return super().image(image_id)

    init_default_scope("mmseg")
    pipeline = [{"type": "CyclicShift"}, {"type": "RandomScaleCrop", "crop_size": (256, 256), "scale_range": (1, 2)}]
    plain, ahead = (PseudoLabelDataset(Noting(), META, pipeline, memory=memory, seed=3) for _ in range(2))
    samples = [list(itertools.islice(iter(NumberedSampler(range(4), seed=0, ahead=n)), 12)) for n in (0, 3)]
    for item, told in zip(*samples, strict=True):
        expected, found = plain[item], ahead[told]
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    assert plain.reader.threads == ["MainThread"] * len(plain.reader.threads)  # type: ignore[attr-defined]
    threads = ahead.reader.threads  # type: ignore[attr-defined]
    assert threads.count("MainThread") <= 3
    assert "reading_0" in threads
    assert sum(draws for _, draws in ahead._coming.values()) <= 3


def test_what_cannot_be_read_ahead_is_told_when_it_is_drawn() -> None:
    dataset = PseudoLabelDataset(Spoiled(), META)

    def fail(_image_id: str) -> FusedSample:
        raise ImageError("pano/1.png: is damaged")

    dataset.reader.fused = fail  # type: ignore[method-assign]
    dataset._begin("pano/1.png")
    with pytest.raises(ImageError, match="is damaged"):
        dataset[1]
    assert not pickle.loads(pickle.dumps(PseudoLabelDataset(SPEC, META)))._coming


def test_a_fork_reads_for_itself() -> None:
    """Threads stay behind in a fork: what they were to read must not be waited for."""
    dataset = PseudoLabelDataset(MemoryReader(), META)
    dataset[(0, 0, 1)]
    dataset._coming = {image_id: (Future(), 1) for image_id in dataset.ids}  # never done, as seen from a fork
    dataset._thread = (-1, dataset._thread[1])  # type: ignore[index]
    assert dataset[(1, 1, 2)]["image_id"] == dataset.ids[1]


def test_what_fits_into_memory_is_read_once() -> None:
    class Counting(MemoryReader):
        reads = 0

        def image(self, image_id: str) -> np.ndarray:
            self.reads += 1
            return super().image(image_id)

    kept, read = Counting(height=512, width=1024), Counting(height=512, width=1024)
    one = 512 * 1024 * (3 + 4) + 4 * 128 * 256 * 2
    assert 2**20 * 8 < 3 * one < 2**20 * 12
    dataset, plain = PseudoLabelDataset(kept, META, memory=8), PseudoLabelDataset(read, META)
    for _ in range(3):
        for index in range(4):
            found, expected = dataset[index], plain[index]
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value)
            found["img"][:] = 0  # what a transform does to a sample is no one else's
            found["label"][:] = 0
    assert read.reads == 12
    assert kept.reads == 2 + 3 * 2, "two of four fit"
    assert not pickle.loads(pickle.dumps(PseudoLabelDataset(SPEC, META, memory=8)))._kept
