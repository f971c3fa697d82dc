"""Collects the arrays of one image in memory, as the members of a Zarr v3 group."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import numpy as np

from pipeline.cache.image_group import IDENTITY_ATTRIBUTE, image_identity
from pipeline.cache.marker import Source, short_digest
from pipeline.core.settings import canonical_json


class ImageWriter:
    """The group of one image while it is computed.

    Attributes:
        attributes: the group's attributes, to be set by the caller.
    """

    def __init__(self, image_id: str, source: Source | None = None) -> None:
        self.attributes: dict[str, Any] = {}
        self._identity = image_identity(image_id, source)
        self._arrays: dict[str, bytes] = {}

    def add_array(self, name: str, values: np.ndarray, *, chunks: tuple[int, ...] | None = None) -> None:
        """Adds a whole array, compressed.

        Args:
            name: name in the group.
            values: any shape and dtype that Zarr stores.
            chunks: shape of a chunk; by default the whole array is one. All-zero chunks are stored too.
        """
        import zarr
        from zarr.codecs import BloscCodec
        from zarr.storage import MemoryStore

        shape = tuple(max(1, n) for n in values.shape)
        chunks = shape if chunks is None else tuple(min(max(1, c), n) for c, n in zip(chunks, shape, strict=True))
        stored: dict[str, Any] = {}
        array = zarr.create_array(
            MemoryStore(stored),
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
            fill_value=0,
            zarr_format=3,
            config={"write_empty_chunks": True},
        )
        if values.size:
            array[...] = values
            grid = (range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))
            for index in itertools.product(*grid):
                file = "/".join(["c", *map(str, index)])
                self._arrays[f"{name}/{file}"] = stored[file].to_bytes()
        self._arrays[f"{name}/zarr.json"] = _compact(json.loads(stored["zarr.json"].to_bytes()))

    def members(self) -> dict[str, bytes]:
        """Returns the files of the group by path. Its attributes name the image."""
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {**self.attributes, IDENTITY_ATTRIBUTE: self._identity},
        }
        return {"zarr.json": _compact(document), **self._arrays}

    def content(self) -> str:
        """Returns a short digest of arrays and attributes, but not of the image's name and file."""
        pairs = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self._arrays.items())]
        attributes = hashlib.sha256(canonical_json(self.attributes).encode()).hexdigest()
        return short_digest([*pairs, ("attributes", attributes)])


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
