"""The cache: what is committed is whole, what is not committed does not exist."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import Artefact, Cache, Marker, Source
from pipeline.cache.freshness import made_from_file, read_source
from pipeline.cache.groups import read_mask_sets
from pipeline.cache.image_group import ImageGroup
from pipeline.cache.marker import encode_id
from pipeline.cache.remote import RemoteStorage
from pipeline.cache.zip_file import pack, unpack
from pipeline.core.errors import ImageError, UserError

ARRAYS = {
    "zeros": np.zeros((3, 8, 8), np.uint8),
    "logits": np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float16),
    "none": np.zeros((0, 4, 4), np.uint16),
}


@pytest.fixture(params=["local", "memory"])
def artefact(request: pytest.FixtureRequest, tmp_path: Path) -> Artefact:
    url = str(tmp_path / "cache") if request.param == "local" else f"memory://{tmp_path.name}"
    artefact = Cache(url, "toy").artefact("teacher", "k1")
    artefact.create({"a": 1}, {})
    return artefact


def write(artefact: Artefact, image_id: str = "a", arrays: dict[str, np.ndarray] = ARRAYS, **more: object) -> None:
    with artefact.write(image_id, **more) as attempt:  # type: ignore[arg-type]
        attempt.attributes["size"] = [8, 8]
        for name, values in arrays.items():
            attempt.array(name, values, chunks=(1, *values.shape[1:]))


def test_what_is_written_is_read(artefact: Artefact) -> None:
    write(artefact, inputs={"sam": "x"}, source=Source(1, 2, "3"))
    group = artefact.read("a")
    assert group.names() == sorted(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(group.array(name), values)
        assert group.array(name).dtype == values.dtype
    assert group.attributes == {"size": [8, 8]}
    assert (group.marker.source, group.marker.inputs) == (Source(1, 2, "3"), {"sam": "x"})
    assert set(artefact.done()) == {"a"}
    artefact.verify(group.marker)


def test_all_zero_chunks_are_files(artefact: Artefact) -> None:
    """A chunk that is not there must be a loss, never class 0."""
    write(artefact)
    members = unpack(artefact.storage.read(artefact.file_path(artefact.done()["a"])), check=True)
    assert {name for name in members if name.startswith("zeros/c/")} == {f"zeros/c/{k}/0/0" for k in range(3)}


def without_digests(artefact: Artefact, members: dict[str, bytes]) -> ImageGroup:
    """The image `a` as a foreign program writes it: nothing but the file's name stands in its marker."""
    artefact.storage.replace(f"{artefact.path}/images/a.by-hand.zip", pack(members))
    return artefact.group(Marker("a", "a.by-hand.zip"))


def test_a_chunk_that_is_not_there_is_no_zeros(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    del members["zeros/c/1/0/0"]
    group = without_digests(artefact, members)
    np.testing.assert_array_equal(group.array("logits"), ARRAYS["logits"])
    with pytest.raises(ImageError, match=r"'zeros' cannot be decoded .chunk c/1/0/0 is missing"):
        group.array("zeros")


def test_a_changed_byte_is_noticed_on_reading(artefact: Artefact) -> None:
    write(artefact)
    path = artefact.file_path(artefact.done()["a"])
    data = bytearray(artefact.storage.read(path))
    data[len(data) // 2] ^= 1
    artefact.storage.replace(path, bytes(data))
    with pytest.raises(ImageError, match="does not have the content it was written with; the cache was damaged, run"):
        artefact.read("a")


def test_without_a_digest_the_zip_files_own_sums_are_compared(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    path = f"{artefact.path}/images/a.by-hand.zip"
    data = bytearray(pack(members))
    data[bytes(data).index(members["logits/c/0/0/0/0"]) + 20] ^= 1
    artefact.storage.replace(path, bytes(data))
    with pytest.raises(ImageError, match="'logits/c/0/0/0/0' does not have the content"):
        artefact.group(Marker("a", "a.by-hand.zip"))


def test_a_file_of_another_image_is_noticed(artefact: Artefact) -> None:
    """Even where its marker names it, with its size and digest."""
    write(artefact, "a", source=Source(1, 2, "3"))
    write(artefact, "b", source=Source(1, 2, "3"))
    other = artefact.done()["b"]
    artefact.storage.replace(f"{artefact.path}/images/a.x.zip", artefact.storage.read(artefact.file_path(other)))
    wrong = replace(other, id="a", file="a.x.zip")
    artefact.storage.replace(f"{artefact.path}/done/a.json", wrong.to_json())
    with pytest.raises(ImageError, match=r"a: .* holds image 'b' of another file or id than its marker says"):
        artefact.read("a")


def test_more_chunks_than_files_take_no_memory(artefact: Artefact) -> None:
    write(artefact)
    members = artefact.read("a").members()
    document = json.loads(members["zeros/zarr.json"])
    document["shape"] = [10**9, 8, 8]
    group = without_digests(artefact, {**members, "zeros/zarr.json": json.dumps(document).encode()})
    with pytest.raises(ImageError, match="1000000000 chunks are expected, more than there are files"):
        group.array("zeros")


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 1000])
def test_what_is_no_zip_file_is_told(artefact: Artefact, data: bytes) -> None:
    artefact.storage.replace(f"{artefact.path}/images/a.x.zip", data)
    with pytest.raises(ImageError, match="is no whole zip file"):
        artefact.group(Marker("a", "a.x.zip"))


def test_a_failed_attempt_leaves_nothing(artefact: Artefact) -> None:
    def fail() -> None:
        with artefact.write("a") as attempt:
            attempt.array("x", np.ones(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert artefact.done() == {}
    assert list(artefact.storage.entries(f"{artefact.path}/images")) == []
    with pytest.raises(ImageError, match="a: is not in teacher/k1"):
        artefact.read("a")


def test_what_a_killed_writer_left_is_swept_and_nothing_else(artefact: Artefact, tmp_path: Path) -> None:
    write(artefact)
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")
    write(artefact, "b")
    artefact.forget("b")  # as after kill -9 between its file and its marker
    assert set(artefact.done()) == {"a"}
    assert list(cache.orphans([artefact], 3600)) == []
    (orphan,) = cache.orphans([artefact], 0)
    assert "/images/b." in orphan
    assert cache.sweep(orphan, 0)
    assert list(cache.orphans([artefact], 0)) == []
    artefact.verify(artefact.done()["a"])


def test_the_same_image_twice_is_one_file(artefact: Artefact) -> None:
    write(artefact)
    first = artefact.done()["a"]
    write(artefact)
    assert artefact.done()["a"] == first
    assert len(list(artefact.storage.entries(f"{artefact.path}/images"))) == 1


def test_new_content_takes_over_and_the_old_stays_readable(artefact: Artefact) -> None:
    write(artefact)
    old = artefact.read("a")
    write(artefact, arrays={"zeros": np.ones((1, 2), np.uint8)})
    np.testing.assert_array_equal(artefact.read("a").array("zeros"), [[1, 1]])
    np.testing.assert_array_equal(old.array("zeros"), ARRAYS["zeros"])
    assert old.marker.content != artefact.done()["a"].content


@pytest.mark.parametrize("plane_view", [[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [2, 2, 0, 0]])
def test_planes_go_to_their_views_in_whatever_order(artefact: Artefact, plane_view: list[int]) -> None:
    """A foreign program may store them mixed."""
    shapes, planes = [(3, 4), (3, 2), (1, 4)], np.zeros((4, 3, 4), np.uint16)
    number = [plane_view[:k].count(view) for k, view in enumerate(plane_view)]
    planes[:, 0, 0] = [n + 1 for n in number]  # one mask a plane
    table = np.array([[view, n] for view, n in sorted(zip(plane_view, number, strict=True))], float)
    with artefact.write("a") as attempt:
        attempt.attributes["columns"] = ["view", "plane"]
        attempt.array("planes", planes, chunks=(1, 3, 4))
        attempt.array("plane_view", np.array(plane_view, np.uint16))
        attempt.array("table", table)
    for view, (found, shape) in enumerate(zip(read_mask_sets(artefact.read("a"), shapes), shapes, strict=True)):
        assert found.planes.shape == (plane_view.count(view), *shape)
        assert found.planes[:, 0, 0].tolist() == list(range(1, plane_view.count(view) + 1))
        assert found.table["area"].tolist() == [1] * plane_view.count(view)


def test_equal_bytes_have_equal_content(artefact: Artefact) -> None:
    write(artefact, "a")
    write(artefact, "b")
    done = artefact.done()
    assert done["a"].content == done["b"].content
    assert done["a"].file != done["b"].file


def test_failures_are_kept_until_the_image_is_done(artefact: Artefact) -> None:
    artefact.record_failure("a", "file is truncated")
    assert artefact.failed()["a"].reason == "file is truncated"
    write(artefact)
    assert artefact.failed() == {}
    artefact.record_failure("a", "file is gone")
    assert artefact.done() == {}


def test_another_format_version_is_refused(artefact: Artefact) -> None:
    path = f"{artefact.path}/zarr.json"
    document = json.loads(artefact.storage.read(path))
    document["attributes"]["format"] = 3
    del document["attributes"]["checksum"]
    artefact.storage.replace(path, json.dumps(document).encode())
    for call in (artefact.attributes, lambda: artefact.create({}, {}), artefact.upgrade):
        with pytest.raises(UserError, match=r"zarr.json: attribute 'format' is 3, expected 2"):
            call()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_root_is_told_and_written_again(artefact: Artefact, damage: str) -> None:
    path = f"{artefact.path}/zarr.json"
    before = artefact.attributes()
    data = artefact.storage.read(path)
    if damage == "gone":
        artefact.storage.delete(path)
    else:
        artefact.storage.replace(path, data[:40] if damage == "cut" else data.replace(b'"a": 1', b'"a": 3'))
    with pytest.raises(UserError, match="no such artefact" if damage == "gone" else "run `verify --repair`"):
        artefact.attributes()
    artefact.repair_root()
    assert artefact.attributes()["format"] == 2
    artefact.create({"a": 1}, {})
    assert artefact.attributes() == before


def test_plain_zarr_reads_an_image(tmp_path: Path) -> None:
    import zarr

    artefact = Cache(str(tmp_path), "toy").artefact("teacher", "k")
    artefact.create({}, {})
    write(artefact, "a/b")
    marker = artefact.done()["a/b"]
    folder = tmp_path / "toy" / "teacher" / "k"
    assert zarr.open_group(folder, mode="r").attrs["kind"] == "teacher"
    with zarr.storage.ZipStore(folder / "images" / marker.file, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert group.attrs["image"] == {"id": "a/b", "source": None}
        assert sorted(group.array_keys()) == sorted(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(group[name][...], values)


def test_summary_counts_bytes_by_array(artefact: Artefact) -> None:
    write(artefact, "a")
    write(artefact, "b")
    summary = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy").summarise(artefact)
    assert (summary.images, summary.failed) == (2, 0)
    assert set(summary.bytes_by_array) == {*ARRAYS, "(group)"}
    on_disk = artefact.storage.size(f"{artefact.path}/images")
    assert sum(summary.bytes_by_array.values()) == on_disk


@given(st.text(min_size=1, max_size=200).filter(lambda s: s.isprintable()))
def test_any_id_becomes_one_safe_file_name(image_id: str) -> None:
    name = encode_id(image_id)
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert unquote(name) == image_id or "~" in name


def test_ids_never_clash() -> None:
    ids = ["a/b", "a%2Fb", "a~b", "a b", "Ä", "..", ".a", "x" * 300, "x" * 299 + "y", "ä" * 200]
    assert len({encode_id(i) for i in ids}) == len(ids)


def test_a_replaced_file_is_noticed_and_a_touched_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1234")
    marker = Marker("a", "a.t.zip", read_source(path))
    assert made_from_file(marker, path)
    path.touch()
    assert made_from_file(marker, path)
    path.write_bytes(b"1235")
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert not made_from_file(marker, path)
    path.write_bytes(b"12345")
    assert not made_from_file(marker, path)
    assert not made_from_file(None, path)


def test_a_file_replaced_with_its_size_and_time_kept_is_noticed_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1234")
    marker, stat = Marker("a", "a.t.zip", read_source(path)), path.stat()
    path.write_bytes(b"1235")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert made_from_file(marker, path)
    assert not made_from_file(marker, path, by_content=True)


def test_an_unwritable_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", _refuse)  # root may write anywhere
        with pytest.raises(UserError, match=r"cannot be written .*; expected a writable folder"):
            Cache(str(tmp_path / "folder"), "toy").storage.check_writable()


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("place", ["file", "file/x", "file/x/y"])
def test_a_file_in_the_place_of_the_cache_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file; expected a folder, or a place for one"):
        Cache(str(tmp_path / place), "toy")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://x", "Protocol not known: nosuch; expected a folder or a URL that fsspec can open"),
        ("zip:///x/cache.zip", "an archive cannot be written file by file; expected it unpacked"),
    ],
)
def test_unknown_urls_are_told(url: str, message: str) -> None:
    with pytest.raises(UserError, match=f"cache {url}: {message}"):
        RemoteStorage(url)
