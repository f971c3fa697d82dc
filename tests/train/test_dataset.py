"""The dataset checks what a reader returns, pickles by its spec, and opens the reader once per process."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.samples import FusedSample, Reader
from stages.train.dataset import PseudoLabelDataset, open_reader
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
