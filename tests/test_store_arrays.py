"""Reading arrays in the caller's own thread: the values that zarr-python reads, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

from pipeline.cache import Artefact, Cache, ImageGroup, Marker
from pipeline.cache.arrays import PlainArray
from pipeline.cache.zip_file import pack
from pipeline.core.errors import ImageError

TYPES = ("bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64")
BLOSC = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")


def create(store: Any, values: np.ndarray, chunks: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """`values` written by zarr-python as the array `x`; its metadata."""
    options = {"compressors": BLOSC, "config": {"write_empty_chunks": True}, **more}
    group = zarr.open_group(store, mode="a", zarr_format=3)
    array = group.create_array("x", shape=values.shape, dtype=values.dtype, chunks=chunks, **options)
    if values.size:
        array[...] = values
    return array.metadata.to_dict()


@given(st.data())
def test_what_zarr_writes_is_read(data: st.DataObject) -> None:
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
    document = create(zarr.storage.MemoryStore(files), values, chunks, compressors=codec)
    plain = PlainArray.from_metadata(json.loads(json.dumps(document, default=float)))
    assert plain is not None
    read = plain.decode([files[f"x/{name}"].to_bytes() for name in plain.files()])
    assert (read.dtype, read.shape) == (values.dtype, values.shape)
    assert read.tobytes() == values.tobytes()  # to the bit, NaN and -0 too
    assert {f"x/{name}" for name in plain.files()} == {name for name in files if name.startswith("x/c/")}


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": ZstdCodec()},
        {"compressors": (GzipCodec(), BLOSC)},
        {"filters": TransposeCodec(order=(1, 0))},
        {"shards": (4, 6)},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
    ids=str,
)
def test_other_layouts_are_left_to_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    """A foreign program's array is read whatever its layout, from a zip file or a folder; only ours is decoded here."""
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    artefact = Cache(str(tmp_path), "toy").artefact("teacher", "k")
    images = tmp_path / "toy" / artefact.path / "images"
    layout: dict[str, Any] = {"shape": values.shape, "dtype": "float32", "chunks": (2, 3), "compressors": BLOSC}
    images.mkdir(parents=True)
    for marker in (Marker("a", "a.t.zip"), Marker("a", "a/t")):
        path = images / marker.file
        store = zarr.storage.ZipStore(path, mode="w") if marker.is_zip else zarr.storage.LocalStore(path)
        array = zarr.create_group(store).create_array("x", **{**layout, **options})
        array[...] = values
        store.close()
        group = ImageGroup(artefact, marker)
        assert PlainArray.from_metadata(json.loads(group.members()["x/zarr.json"])) is None
        np.testing.assert_array_equal(group.array("x"), values)


def test_a_chunk_of_another_layout_that_is_not_there_is_told(tmp_path: Path) -> None:
    artefact = Cache(str(tmp_path), "toy").artefact("teacher", "k")
    folder = tmp_path / "toy" / artefact.path / "images" / "a" / "t"
    create(folder, np.ones((4, 6), np.float32), (2, 3), compressors=ZstdCodec())
    (folder / "x" / "c" / "1" / "0").unlink()
    with pytest.raises(ImageError, match="3 of 4 chunks are there"):
        ImageGroup(artefact, Marker("a", "a/t")).array("x")


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
def test_metadata_that_is_not_plain_is_told_apart(change: dict[str, Any]) -> None:
    document = json.loads(json.dumps(create(zarr.storage.MemoryStore(), np.ones((4, 6), np.uint8), (2, 3))))
    assert PlainArray.from_metadata(document) is not None
    assert PlainArray.from_metadata({**document, **change}) is None


@pytest.fixture(params=["local", "memory"])
def artefact(request: pytest.FixtureRequest, tmp_path: Path) -> Artefact:
    url = str(tmp_path / "cache") if request.param == "local" else f"memory://{tmp_path.name}-arrays"
    artefact = Cache(url, "toy").artefact("teacher", "k1")
    artefact.create({}, {})
    with artefact.write("a") as attempt:
        attempt.array("x", np.random.default_rng(0).integers(0, 99, (3, 64, 64)), chunks=(1, 64, 64))
    return artefact


@pytest.mark.parametrize("damage", ["cut", "header", "body", "empty"])
def test_a_chunk_that_cannot_be_decoded_is_told(artefact: Artefact, damage: str) -> None:
    """Of a foreign program, whose marker has no digests."""
    members = artefact.read("a").members()
    data = members["x/c/1/0/0"]
    bad = {
        "cut": data[: len(data) // 2],
        "header": bytes(len(data)),
        "body": data[:16] + b"\xff" * (len(data) - 16),
        "empty": b"",
    }
    group = by_hand(artefact, {**members, "x/c/1/0/0": bad[damage]})
    with pytest.raises(ImageError, match=r"a: teacher/k1: array 'x' cannot be decoded .*verify --repair"):
        group.array("x")


def by_hand(artefact: Artefact, members: dict[str, bytes]) -> ImageGroup:
    artefact.storage.replace(f"{artefact.path}/images/a.by-hand.zip", pack(members))
    return artefact.group(Marker("a", "a.by-hand.zip"))


def test_several_files_are_read_in_order(artefact: Artefact) -> None:
    storage = artefact.storage
    for name in "abc":
        storage.replace(f"more/{name}", name.encode())
    assert list(storage.read_many(["more/c", "more/x", "more/a", "more/b"])) == [b"c", None, b"a", b"b"]
    assert list(storage.read_many([])) == []
    many = [f"more/{'abcx'[k % 4]}" for k in range(1000)]
    assert list(storage.read_many(many)) == [b"a", b"b", b"c", None] * 250


def test_what_is_no_array_is_told(artefact: Artefact) -> None:
    group = artefact.read("a")
    assert "x" in group
    assert "y" not in group
    assert group.names() == ["x"]
    with pytest.raises(ImageError, match=r"a: teacher/k1 has no array 'y'; found \['x'\]"):
        group.array("y")
    members = group.members()
    with pytest.raises(ImageError, match=r"Expecting property name .*verify --repair"):
        by_hand(artefact, {**members, "x/zarr.json": b"{"}).array("x")
    for text in (b"{}", b'{"node_type": "array"}'):
        with pytest.raises(ImageError, match="has no zarr group"):
            by_hand(artefact, {**members, "zarr.json": text})
