"""The chosen panoramas: best, worst, most uncertain; none twice, and no more than wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.report.gallery import choose

IDS = [f"p{k}" for k in range(9)]
FIGURES = {name: {"mIoU": 10.0 * k, "weight": 50.0 + abs(k - 4)} for k, name in enumerate(IDS)}


def test_a_third_for_each_group() -> None:
    choice = choose(FIGURES, IDS, 6)
    assert choice.groups == {"Best": ["p8", "p7"], "Worst": ["p0", "p1"], "Most uncertain": ["p4", "p3"]}
    assert choice.reason == "Best and worst by mIoU, most uncertain by the mean of M"


def test_without_labels_the_expected_miou_ranks_and_without_weights_l_cc() -> None:
    figures = {name: {"expected_mIoU": 10.0 * k, "weight": 100.0, "l_cc": 1.0 * k} for k, name in enumerate(IDS)}
    choice = choose(figures, IDS, 3)
    assert choice.groups == {"Best": ["p8"], "Worst": ["p0"], "Most uncertain": ["p7"]}
    assert choice.reason == "Best and worst by expected mIoU, most uncertain by L_CC"


def test_without_figures_the_first_panoramas_are_taken() -> None:
    assert choose({}, IDS, 2).groups == {"Panoramas": ["p0", "p1"]}


@given(count=st.integers(0, 12), known=st.integers(0, 9), weights=st.booleans())
def test_no_panorama_twice_and_no_more_than_wanted(count: int, known: int, weights: bool) -> None:
    figures = {
        name: {"mIoU": 1.0 * k, **({"weight": 1.0 * k} if weights else {})} for k, name in enumerate(IDS[:known])
    }
    chosen = [name for group in choose(figures, IDS, count).groups.values() for name in group]
    assert len(chosen) == len(set(chosen)) <= count
    assert set(chosen) <= set(IDS)


@pytest.mark.parametrize("count", [3, 9])
def test_all_are_taken_if_there_are_few(count: int) -> None:
    chosen = [name for group in choose(FIGURES, IDS[:3], count).groups.values() for name in group]
    assert sorted(chosen) == IDS[:3]
