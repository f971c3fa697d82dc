"""Damage of an image's file is detected when it is read, and foreign layouts are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

from pipeline.cache import Artefact, Cache, ImageGroup, Marker, Source
from pipeline.cache.arrays import BloscArray
from pipeline.cache.zip_file import pack, unpack
from pipeline.core.errors import ImageError
from tests.cache.helpers import ARRAYS, write, write_foreign_image
from tests.caches import finished


def test_all_zero_chunks_are_stored(artefact: Artefact) -> None:
    """A missing chunk must be a loss, never class 0."""
    write(artefact)
    members = unpack(artefact.storage.read(artefact.file_path(finished(artefact)["a"])), check=True)
    assert {name for name in members if name.startswith("zeros/c/")} == {f"zeros/c/{k}/0/0" for k in range(3)}


def test_a_missing_chunk_is_an_error(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    del members["zeros/c/1/0/0"]
    group = write_foreign_image(artefact, members)
    np.testing.assert_array_equal(group.read_array("logits"), ARRAYS["logits"])
    with pytest.raises(ImageError, match=r"'zeros' cannot be decoded .chunk c/1/0/0 is missing"):
        group.read_array("zeros")


def test_a_changed_byte_is_detected(artefact: Artefact) -> None:
    write(artefact)
    path = artefact.file_path(finished(artefact)["a"])
    data = bytearray(artefact.storage.read(path))
    data[len(data) // 2] ^= 1
    artefact.storage.replace(path, bytes(data))
    with pytest.raises(ImageError, match="does not have the content it was written with; the cache was damaged, run"):
        artefact.read("a")


def test_without_a_digest_the_checksums_of_the_zip_file_are_compared(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    data = bytearray(pack(members))
    data[bytes(data).index(members["logits/c/0/0/0/0"]) + 20] ^= 1
    artefact.storage.replace(f"{artefact.path}/images/a.by-hand.zip", bytes(data))
    with pytest.raises(ImageError, match="'logits/c/0/0/0/0' does not have the content"):
        artefact.read_group(Marker("a", "a.by-hand.zip"))


def test_the_file_of_another_image_is_detected(artefact: Artefact) -> None:
    """Even where the marker has its size and digest."""
    write(artefact, "a", source=Source(1, 2, "3"))
    write(artefact, "b", source=Source(1, 2, "3"))
    other = finished(artefact)["b"]
    artefact.storage.replace(f"{artefact.path}/images/a.x.zip", artefact.storage.read(artefact.file_path(other)))
    wrong = replace(other, id="a", file="a.x.zip")
    artefact.storage.replace(f"{artefact.path}/done/a.json", wrong.to_json())
    with pytest.raises(ImageError, match=r"a: .* holds image 'b' of another file or id than its marker names"):
        artefact.read("a")


def test_more_chunks_than_files_allocate_no_memory(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    document = json.loads(members["zeros/zarr.json"])
    document["shape"] = [10**9, 8, 8]
    group = write_foreign_image(artefact, {**members, "zeros/zarr.json": json.dumps(document).encode()})
    with pytest.raises(ImageError, match="1000000000 chunks are expected, more than there are files"):
        group.read_array("zeros")


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 1000])
def test_a_file_that_is_no_zip_file_is_an_error(artefact: Artefact, data: bytes) -> None:
    artefact.storage.replace(f"{artefact.path}/images/a.x.zip", data)
    with pytest.raises(ImageError, match="is no complete zip file"):
        artefact.read_group(Marker("a", "a.x.zip"))


@pytest.mark.parametrize("damage", ["cut", "header", "body", "empty"])
def test_a_chunk_that_cannot_be_decoded_is_an_error(artefact: Artefact, damage: str) -> None:
    write(artefact, arrays={"x": np.random.default_rng(0).integers(0, 99, (3, 64, 64))})
    members = artefact.read("a").members()
    data = members["x/c/1/0/0"]
    damaged = {
        "cut": data[: len(data) // 2],
        "header": bytes(len(data)),
        "body": data[:16] + b"\xff" * (len(data) - 16),
        "empty": b"",
    }
    group = write_foreign_image(artefact, {**members, "x/c/1/0/0": damaged[damage]})
    with pytest.raises(ImageError, match=r"a: teacher/k1: array 'x' cannot be decoded .*verify --repair"):
        group.read_array("x")


def test_a_missing_array_and_damaged_metadata_are_errors(artefact: Artefact) -> None:
    write(artefact, arrays={"x": ARRAYS["zeros"]})
    group = artefact.read("a")
    assert "x" in group
    assert "y" not in group
    assert group.array_names() == ["x"]
    with pytest.raises(ImageError, match=r"a: teacher/k1 has no array 'y'; found \['x'\]"):
        group.read_array("y")
    with pytest.raises(ImageError, match=r"array 'x' is \(3, 8, 8\), expected 2 axes"):
        group.read_array("x", ndim=2)
    members = group.members()
    with pytest.raises(ImageError, match=r"Expecting property name .*verify --repair"):
        write_foreign_image(artefact, {**members, "x/zarr.json": b"{"}).read_array("x")
    for text in (b"{}", b'{"node_type": "array"}'):
        with pytest.raises(ImageError, match="has no zarr group"):
            write_foreign_image(artefact, {**members, "zarr.json": text})


BLOSC = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")


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
def test_arrays_of_other_layouts_are_read_by_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    """From a zip file and from a folder."""
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
        assert BloscArray.from_metadata(json.loads(group.members()["x/zarr.json"])) is None
        np.testing.assert_array_equal(group.read_array("x"), values)


def test_a_missing_chunk_of_another_layout_is_an_error(tmp_path: Path) -> None:
    artefact = Cache(str(tmp_path), "toy").artefact("teacher", "k")
    folder = tmp_path / "toy" / artefact.path / "images" / "a" / "t"
    array = zarr.open_group(folder, mode="a", zarr_format=3).create_array(
        "x", shape=(4, 6), dtype="float32", chunks=(2, 3), compressors=ZstdCodec()
    )
    array[...] = 1
    (folder / "x" / "c" / "1" / "0").unlink()
    with pytest.raises(ImageError, match="3 of 4 chunks are there"):
        ImageGroup(artefact, Marker("a", "a/t")).read_array("x")


def test_zarr_reads_an_image(tmp_path: Path) -> None:
    artefact = Cache(str(tmp_path), "toy").artefact("teacher", "k")
    artefact.create({}, {})
    write(artefact, "a/b")
    marker = finished(artefact)["a/b"]
    folder = tmp_path / "toy" / "teacher" / "k"
    assert zarr.open_group(folder, mode="r").attrs["kind"] == "teacher"
    with zarr.storage.ZipStore(folder / "images" / marker.file, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert group.attrs["image"] == {"id": "a/b", "source": None}
        assert sorted(group.array_keys()) == sorted(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(group[name][...], values)
