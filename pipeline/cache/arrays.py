"""Decoding of whole arrays in the caller's own thread: the plain layout in which this program writes them.

zarr-python passes every chunk through an event loop and a pool of threads. For a few small chunks that costs more than
decoding them, above all on a busy machine and after a fork. What is laid out in any other way is left to zarr-python.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Buffer = bytes | memoryview

#: Largest array that is decoded: damaged or malicious metadata must not take all memory.
MAX_ARRAY_BYTES = 2**33

#: Data types that zarr and numpy call the same.
_TYPES = frozenset(
    [
        "bool",
        "float16",
        "float32",
        "float64",
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    ]
)

#: Keys of an array's metadata that are read here, or do not change its values. With any other it is left to zarr.
_KNOWN = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "codecs",
        "storage_transformers",
        "fill_value",
        "attributes",
        "dimension_names",
    }
)


@dataclass(frozen=True)
class PlainArray:
    """A regular grid of `chunks`, each a file `c/i/j/...` that holds one Blosc buffer in C order."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def from_metadata(cls, document: Mapping[str, Any]) -> PlainArray | None:
        """The array that a `zarr.json` describes; None if it is not plain, or not an array."""
        try:
            grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
            order, blosc = document["codecs"]
            plain = (
                (document["zarr_format"], document["node_type"]) == (3, "array")
                and _KNOWN.issuperset(document)
                and document["data_type"] in _TYPES
                and grid["name"] == "regular"
                and (keys["name"], keys.get("configuration", {}).get("separator", "/")) == ("default", "/")
                and not document.get("storage_transformers")
                and order["name"] == "bytes"
                and order.get("configuration", {}).get("endian", sys.byteorder) == sys.byteorder
                and blosc["name"] == "blosc"
            )
            shape = tuple(int(n) for n in document["shape"])
            chunks = tuple(int(n) for n in grid["configuration"]["chunk_shape"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if not plain or not shape or len(shape) != len(chunks) or min(shape) < 0 or min(chunks) < 1:
            return None
        return cls(shape, chunks, np.dtype(document["data_type"]))

    def _grid(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*(range(-(-n // c)) for n, c in zip(self.shape, self.chunks, strict=True)))

    @property
    def count(self) -> int:
        """Number of chunks."""
        return prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    def files(self) -> Iterator[str]:
        """Every chunk's file, relative to the array's folder."""
        return ("/".join(["c", *map(str, index)]) for index in self._grid())

    def decode(self, buffers: Sequence[Buffer]) -> np.ndarray:
        """The array, of its chunks' bytes in the order of `files`.

        Raises `ValueError` for a buffer that is cut, or is none of this chunk size; no memory is taken before all
        buffers say that they hold what the metadata says.
        """
        for buffer in buffers:
            self._check_header(buffer)
        size = prod(self.shape) * self.dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"{self.shape} {self.dtype} takes {size:,} bytes, expected at most {MAX_ARRAY_BYTES:,}")
        values = np.empty(self.shape, self.dtype)
        for index, buffer in zip(self._grid(), buffers, strict=True):
            target = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self.chunks, strict=True))]
            if target.shape == self.chunks and target.flags.c_contiguous:
                self._decompress(buffer, target)
            else:  # a chunk reaches beyond the array, or its rows do not lie together
                whole = np.empty(self.chunks, self.dtype)
                self._decompress(buffer, whole)
                target[...] = whole[tuple(slice(n) for n in target.shape)]
        return values

    def _check_header(self, buffer: Buffer) -> None:
        expected = prod(self.chunks) * self.dtype.itemsize
        # the header, of 16 bytes: version, flags, size of the values in bytes, of a block, of the whole buffer
        size, _, length = struct.unpack_from("<III", buffer, 4) if len(buffer) >= 16 else (0, 0, 0)
        if (size, length) != (expected, len(buffer)) or expected > MAX_ARRAY_BYTES:
            raise ValueError(f"expected a Blosc buffer of {expected} bytes of values")

    def _decompress(self, buffer: Buffer, target: np.ndarray) -> None:
        from numcodecs import blosc

        blosc.use_threads = False  # as zarr has it: Blosc's own threads do not survive a fork
        try:
            blosc.decompress(buffer, target)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
