"""Collecting the arrays of one image in memory, as the members of a Zarr v3 group."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import numpy as np

from pipeline.cache.image_group import IDENTITY, identity
from pipeline.cache.marker import Source, short_digest
from pipeline.core.settings import canonical_json


class Attempt:
    """The group of one image while it is made: set `attributes`, then add arrays."""

    def __init__(self, image_id: str, source: Source | None = None) -> None:
        self.attributes: dict[str, Any] = {}
        self._identity = identity(image_id, source.to_json() if source is not None else None)
        self._arrays: dict[str, bytes] = {}

    def array(self, name: str, values: np.ndarray, *, chunks: tuple[int, ...] | None = None) -> None:
        """Adds a whole array, compressed; every chunk is kept, all-zero ones too."""
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
        files = {"zarr.json"}
        if values.size:
            array[...] = values
            grid = (range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))
            files.update("/".join(["c", *map(str, index)]) for index in itertools.product(*grid))
        for file in files:
            self._arrays[f"{name}/{file}"] = stored[file].to_bytes()
        metadata = json.loads(self._arrays[f"{name}/zarr.json"])
        self._arrays[f"{name}/zarr.json"] = _compact(metadata)

    def members(self) -> dict[str, bytes]:
        """The files of the group, by path. Its attributes say which image it is of."""
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {**self.attributes, IDENTITY: self._identity},
        }
        return {"zarr.json": _compact(document), **self._arrays}

    def content(self) -> str:
        """What the group holds, as a short digest: of its arrays and attributes, not of the image's name or file."""
        pairs = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self._arrays.items())]
        attributes = hashlib.sha256(canonical_json(self.attributes).encode()).hexdigest()
        return short_digest([*pairs, ("attributes", attributes)])


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
