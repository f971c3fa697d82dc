"""Decodes whole arrays of the layout that this program writes, in the calling thread.

zarr-python passes every chunk through an event loop and a pool of threads. For a few small chunks that costs more than
decoding them, above all on a busy machine and after a fork. Arrays of other layouts are left to zarr-python.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Buffer = bytes | memoryview

#: Largest array that is decoded; damaged or malicious metadata cannot exhaust the memory.
MAX_ARRAY_BYTES = 2**33

#: Data types of the same name in zarr and numpy.
_TYPES = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_TYPES |= {"bool", "float16", "float32", "float64"}

#: Keys of an array's metadata that are read here, or do not change its values; an array with others is left to zarr.
_KNOWN_KEYS = {"zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"}
_KNOWN_KEYS |= {"storage_transformers", "fill_value", "attributes", "dimension_names"}


@dataclass(frozen=True)
class BloscArray:
    """A regular grid of chunks of shape `chunks`, each a file `c/i/j/...` that holds one Blosc buffer in C order."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def from_metadata(cls, document: Mapping[str, Any]) -> BloscArray | None:
        """Parses the array's `zarr.json`; returns `None` for another layout, and for anything but an array."""
        try:
            grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
            order, blosc = document["codecs"]
            matches = (
                (document["zarr_format"], document["node_type"]) == (3, "array")
                and _KNOWN_KEYS.issuperset(document)
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
        if not matches or not shape or len(shape) != len(chunks) or min(shape) < 0 or min(chunks) < 1:
            return None
        return cls(shape, chunks, np.dtype(document["data_type"]))

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    def files(self) -> Iterator[str]:
        """Yields every chunk's file, relative to the array's folder."""
        return ("/".join(["c", *map(str, index)]) for index in np.ndindex(self.grid))

    def decode(self, buffers: Sequence[Buffer]) -> np.ndarray:
        """Decodes the array from the content of every chunk's file, in the order of `files`.

        No memory is allocated before the headers of all buffers match the metadata. Raises `ValueError` if a buffer is
        cut or has another size, or if the array is larger than `MAX_ARRAY_BYTES`.
        """
        for buffer in buffers:
            self._check_header(buffer)
        size = prod(self.shape) * self.dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"{self.shape} {self.dtype} takes {size:,} bytes, expected at most {MAX_ARRAY_BYTES:,}")
        values = np.empty(self.shape, self.dtype)
        for index, buffer in zip(np.ndindex(self.grid), buffers, strict=True):
            target = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self.chunks, strict=True))]
            if target.shape == self.chunks and target.flags.c_contiguous:
                self._decompress(buffer, target)
            else:  # a chunk that exceeds the array, or is not contiguous in it
                chunk = np.empty(self.chunks, self.dtype)
                self._decompress(buffer, chunk)
                target[...] = chunk[tuple(slice(n) for n in target.shape)]
        return values

    def _check_header(self, buffer: Buffer) -> None:
        expected = prod(self.chunks) * self.dtype.itemsize
        # a header of 16 bytes: versions and flags, then the bytes of the values, of a block, and of the buffer
        size, _, length = struct.unpack_from("<III", buffer, 4) if len(buffer) >= 16 else (0, 0, 0)
        if (size, length) != (expected, len(buffer)) or expected > MAX_ARRAY_BYTES:
            raise ValueError(f"expected a Blosc buffer of {expected} bytes of values")

    def _decompress(self, buffer: Buffer, target: np.ndarray) -> None:
        from numcodecs import blosc

        blosc.use_threads = False  # as zarr sets it: Blosc's threads do not survive a fork
        try:
            blosc.decompress(buffer, target)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
