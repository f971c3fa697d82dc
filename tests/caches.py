"""Contents of caches, for comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.cache import Artefact, Cache, Marker


def finished(artefact: Artefact) -> dict[str, Marker]:
    """Returns every finished image's marker by id."""
    return {marker.id: marker for marker in artefact.markers()}


def failed(artefact: Artefact) -> dict[str, str]:
    """Returns the reason of every failed image by id."""
    return {failure.id: failure.reason for failure in artefact.failures()}


def count_finished(cache: Cache) -> int:
    """Returns the number of finished images of all artefacts."""
    return sum(len(finished(artefact)) for artefact in cache.artefacts())


def read_arrays(cache: Cache) -> dict[str, np.ndarray]:
    """Returns every array of every finished image, by kind, image and name."""
    arrays = {}
    for artefact in cache.artefacts():
        for image_id in finished(artefact):
            group = artefact.read(image_id)
            arrays |= {f"{artefact.kind}/{image_id}/{name}": group.read_array(name) for name in group.array_names()}
    return arrays


def assert_equal_caches(url: str | Path, reference: str | Path, name: str = "toy") -> None:
    """Checks that two caches of the data set `name` hold the same arrays, to the bit."""
    arrays, expected = read_arrays(Cache(str(url), name)), read_arrays(Cache(str(reference), name))
    assert expected
    assert arrays.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key)
