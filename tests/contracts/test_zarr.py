"""What `pipeline.cache` uses of zarr-python's storage and of Blosc's format. Checked with zarr 3.1, numcodecs 0.16."""

from __future__ import annotations

import struct
from importlib.metadata import version
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec

VERSION = f"zarr {version('zarr')}, numcodecs {version('numcodecs')}"
VALUES = np.arange(24, dtype=np.uint16).reshape(4, 6)


def test_a_memory_store_keeps_files_in_the_dictionary_it_is_given() -> None:
    """`ImageWriter` takes the files from there."""
    stored: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(stored), shape=(4, 6), dtype="uint16", chunks=(2, 6), compressors=BloscCodec()
    )
    array[...] = VALUES
    assert set(stored) == {"zarr.json", "c/0/0", "c/1/0"}, VERSION
    assert all(isinstance(data.to_bytes(), bytes) for data in stored.values()), VERSION
    assert blosc.decompress(stored["c/1/0"].to_bytes()) == VALUES[2:].tobytes(), VERSION


def test_a_memory_store_reads_buffers_of_bytes() -> None:
    """`ImageGroup` has foreign layouts decoded in this way."""
    stored: dict[str, Any] = {}
    zarr.create_array(zarr.storage.MemoryStore(stored), name="x", data=VALUES)
    make_buffer = default_buffer_prototype().buffer.from_bytes
    files = {name: make_buffer(data.to_bytes()) for name, data in stored.items() if name.startswith("x/")}
    array = zarr.open_array(store=zarr.storage.MemoryStore(files), path="x", mode="r", zarr_format=3)
    assert (array.nchunks_initialized, array.nchunks) == (1, 1), VERSION
    np.testing.assert_array_equal(array[...], VALUES, VERSION)


def test_the_header_of_blosc_holds_both_sizes() -> None:
    """`BloscArray` compares them before it allocates memory."""
    data = blosc.compress(VALUES.tobytes(), b"zstd", 5, blosc.SHUFFLE)
    size, _, length = struct.unpack_from("<III", data, 4)
    assert (size, length) == (VALUES.nbytes, len(data)), VERSION
