"""Class weights by rarity: values, normalisation, and their place in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.data.class_balance import LIMIT, class_shares, class_weights
from pipeline.models import losses
from tests.train.helpers import MemoryReader

SHARES = arrays.arrays(np.float64, 5, elements=st.floats(0, 1)).map(lambda a: a / a.sum() if a.sum() > 1e-6 else a * 0)


def test_shares_are_counted_over_the_images_that_are_named() -> None:
    reader = MemoryReader()
    ids = reader.ids[:2]
    labels = np.concatenate([reader.fused(i).label.ravel() for i in ids])
    known = labels[labels != 255]
    expected = [(known == c).mean() for c in range(4)]
    np.testing.assert_allclose(class_shares(reader, ids, 4), expected)


@given(SHARES, st.floats(0, 1))
def test_the_average_labelled_pixel_weighs_one_and_rare_classes_more(shares: np.ndarray, exponent: float) -> None:
    weights = class_weights(shares, exponent, limit=np.inf)
    assert (weights[shares == 0] == 1).all()
    if shares.any():
        assert (shares * weights).sum() == pytest.approx(1)
        order = np.argsort(shares[shares > 0])
        assert (np.diff(weights[shares > 0][order]) <= 1e-9).all()
    assert class_weights(shares, exponent).max() <= max(LIMIT, 1)


def test_both_ends_of_the_exponent() -> None:
    shares = np.array([0.5, 0.4, 0.1, 0.0])
    np.testing.assert_allclose(class_weights(shares, 0), 1)
    np.testing.assert_allclose((shares * class_weights(shares, 1))[:3], 1 / 3)


def test_a_pixel_counts_with_its_labels_weight() -> None:
    logits, label = torch.randn(1, 4, 6, 8), torch.randint(4, (1, 6, 8))
    label[:, 0] = 255
    weights = torch.tensor([0.5, 1.0, 2.0, 8.0])
    balance = losses.label_weights(label, weights)
    assert (balance[:, 0] == 1).all()
    found = losses.hard_cross_entropy(logits, label, balance)
    expected = torch.nn.functional.cross_entropy(logits, label, weights, ignore_index=255)
    torch.testing.assert_close(found, expected)
    nothing = losses.hard_cross_entropy(logits, torch.full_like(label, 255), torch.ones_like(balance))
    assert nothing == 0
