"""Mask sets that a foreign program stored in another order."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.cache import Artefact
from pipeline.cache.groups import read_mask_sets


@pytest.mark.parametrize("plane_view", [[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [2, 2, 0, 0]])
def test_planes_are_read_in_any_order_of_views(artefact: Artefact, plane_view: list[int]) -> None:
    shapes, planes = [(3, 4), (3, 2), (1, 4)], np.zeros((4, 3, 4), np.uint16)
    number = [plane_view[:k].count(view) for k, view in enumerate(plane_view)]
    planes[:, 0, 0] = [n + 1 for n in number]  # one mask a plane
    table = np.array([[view, n] for view, n in sorted(zip(plane_view, number, strict=True))], float)
    with artefact.write("a") as writer:
        writer.attributes["columns"] = ["view", "plane"]
        writer.add_array("planes", planes, chunks=(1, 3, 4))
        writer.add_array("plane_view", np.array(plane_view, np.uint16))
        writer.add_array("table", table)
    for view, (masks, shape) in enumerate(zip(read_mask_sets(artefact.read("a"), shapes), shapes, strict=True)):
        assert masks.planes.shape == (plane_view.count(view), *shape)
        assert masks.planes[:, 0, 0].tolist() == list(range(1, plane_view.count(view) + 1))
        assert masks.table["area"].tolist() == [1] * plane_view.count(view)
