"""One normalization for TAs, adaptation and exported students: the same numbers on every path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.models.load import load_student
from pipeline.models.normalization import Normalization
from stages.export.mmseg_internals import preprocessor_normalization
from tests.models import street
from tests.predict.helpers import untrained

NORMALIZATION = Normalization(channels="BGR", mean=(1.5, 20.0, 100.0), std=(4.0, 5.0, 60.0))


def test_the_formula_by_hand() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), dtype=np.uint8)
    expected = (images[..., ::-1].astype(np.float32) - [1.5, 20, 100]) / [4, 5, 60]
    np.testing.assert_allclose(NORMALIZATION.normalize(images), expected.transpose(0, 3, 1, 2), rtol=1e-6)
    np.testing.assert_array_equal(NORMALIZATION.normalize(images[0]), NORMALIZATION.normalize(images)[0])


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_arrays_and_tensors_are_the_same_to_the_bit(channels: str) -> None:
    normalization = NORMALIZATION.model_copy(update={"channels": channels})
    images = np.stack([street(seed=k) for k in range(2)])
    tensor = normalization.normalize_on("cpu", images)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), normalization.normalize(images))


def test_a_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Normalization(std=(1.0, 0.0, 1.0))


def test_a_student_is_normalized_as_by_its_own_preprocessor(tmp_path: Path) -> None:
    preprocessor = load_student(untrained(tmp_path / "student.pth"), "cpu").model.data_preprocessor  # type: ignore[attr-defined]
    image = street(16, 32)
    expected = preprocessor({"inputs": [torch.from_numpy(image.transpose(2, 0, 1).copy())]}, False)["inputs"][0]
    normalization = preprocessor_normalization(preprocessor)
    assert normalization.mean == pytest.approx((123.675, 116.28, 103.53), rel=1e-6)
    np.testing.assert_allclose(normalization.normalize(image), expected.numpy(), atol=1e-5)
