"""Arrays for tests, and images written by this and by other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.cache import Artefact, ImageGroup, Marker
from pipeline.cache.zip_file import pack

ARRAYS = {
    "zeros": np.zeros((3, 8, 8), np.uint8),
    "logits": np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float16),
    "none": np.zeros((0, 4, 4), np.uint16),
}


def write(artefact: Artefact, image_id: str = "a", arrays: Mapping[str, np.ndarray] = ARRAYS, **more: Any) -> None:
    """Writes an image whose arrays have a chunk for each first index."""
    with artefact.write(image_id, **more) as writer:
        writer.attributes["size"] = [8, 8]
        for name, values in arrays.items():
            writer.add_array(name, values, chunks=(1, *values.shape[1:]))


def write_foreign_image(artefact: Artefact, members: Mapping[str, bytes]) -> ImageGroup:
    """Writes the image `a` as another program may: its marker has no digests."""
    artefact.storage.replace(f"{artefact.path}/images/a.by-hand.zip", pack(members))
    return artefact.read_group(Marker("a", "a.by-hand.zip"))
