"""Arrays decoded in the calling thread have the values that zarr-python reads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from zarr.codecs import BloscCodec

from pipeline.cache.arrays import BloscArray

TYPES = ("bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64")
BLOSC = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")


def create(store: Any, values: np.ndarray, chunks: tuple[int, ...], codec: BloscCodec = BLOSC) -> dict[str, Any]:
    """Writes `values` by zarr-python as the array `x`; returns its metadata."""
    array = zarr.open_group(store, mode="a", zarr_format=3).create_array(
        "x",
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        compressors=codec,
        config={"write_empty_chunks": True},
    )
    if values.size:
        array[...] = values
    return array.metadata.to_dict()


@given(st.data())
def test_arrays_written_by_zarr_are_decoded(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(TYPES)))
    shape = data.draw(nps.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    chunks = data.draw(st.tuples(*(st.integers(1, 7) for _ in shape)))
    values = data.draw(nps.arrays(dtype, shape))
    codec = BloscCodec(
        cname=data.draw(st.sampled_from(["zstd", "lz4", "blosclz"])),
        clevel=data.draw(st.integers(0, 9)),
        shuffle=data.draw(st.sampled_from(["noshuffle", "shuffle", "bitshuffle"])),
    )
    files: dict[str, Any] = {}
    document = create(zarr.storage.MemoryStore(files), values, chunks, codec)
    layout = BloscArray.from_metadata(json.loads(json.dumps(document, default=float)))
    assert layout is not None
    decoded = layout.decode([files[f"x/{name}"].to_bytes() for name in layout.files()])
    assert (decoded.dtype, decoded.shape) == (values.dtype, values.shape)
    assert decoded.tobytes() == values.tobytes()  # to the bit, NaN and -0 too
    assert {f"x/{name}" for name in layout.files()} == {name for name in files if name.startswith("x/c/")}


@pytest.mark.parametrize(
    "change",
    [
        {"node_type": "group"},
        {"zarr_format": 2},
        {"shape": []},
        {"shape": [-1, 6]},
        {"shape": "4"},
        {"data_type": "string"},
        {"data_type": {"name": "numpy.datetime64", "configuration": {}}},
        {"codecs": []},
        {"codecs": None},
        {"chunk_grid": {"name": "rectilinear", "configuration": {}}},
        {"storage_transformers": [{"name": "x"}]},
        {"something_new": {"must_understand": True}},
    ],
    ids=str,
)
def test_metadata_of_other_layouts_is_left_to_zarr(change: dict[str, Any]) -> None:
    document = json.loads(json.dumps(create(zarr.storage.MemoryStore(), np.ones((4, 6), np.uint8), (2, 3))))
    assert BloscArray.from_metadata(document) is not None
    assert BloscArray.from_metadata({**document, **change}) is None
