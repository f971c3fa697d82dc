"""Listings, sizes and orphans of a cache, and the places where it can be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cache import Artefact, Cache
from pipeline.cache.local import LocalStorage
from pipeline.cache.remote import RemoteStorage
from pipeline.cache.storage import Entry
from pipeline.core.errors import UserError
from tests.cache.helpers import ARRAYS, write
from tests.caches import finished


def cache_of(artefact: Artefact) -> Cache:
    return Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")


def test_artefacts_are_listed_by_kind_and_key(artefact: Artefact) -> None:
    cache = cache_of(artefact)
    for kind, key in (("teacher", "k0"), ("sam", "k2"), ("own_kind", "k")):
        cache.artefact(kind, key).create({}, {})
    cache.storage.replace("masks/no_root/done/a.json", b"{}")
    cache.storage.replace("notes/2025/todo.txt", b"")
    paths = [listed.path for listed in cache.artefacts()]
    assert paths == ["masks/no_root", "own_kind/k", "sam/k2", "teacher/k0", "teacher/k1"]


def test_a_killed_writers_file_is_removed_and_no_other(artefact: Artefact) -> None:
    write(artefact)
    cache = cache_of(artefact)
    write(artefact, "b")
    artefact.remove_marker("b")  # as after a kill between file and marker
    assert set(finished(artefact)) == {"a"}
    assert list(cache.find_orphans([artefact], 3600)) == []
    (orphan,) = cache.find_orphans([artefact], 0)
    assert "/images/b." in orphan
    assert cache.remove_orphan(orphan, 0)
    assert list(cache.find_orphans([artefact], 0)) == []
    artefact.verify(finished(artefact)["a"])


def test_temporary_files_of_killed_writers_are_removed(local_artefact: Artefact) -> None:
    write(local_artefact)
    root = Path(local_artefact.storage.url)
    folders = ("", *(f"{local_artefact.path}{name}" for name in ("", "/done", "/failed", "/images")))
    temporary = [root / folder / ".0123.tmp" for folder in folders]
    for path in temporary:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    cache = cache_of(local_artefact)
    assert list(cache.find_orphans([local_artefact], 3600)) == []
    for orphan in list(cache.find_orphans([local_artefact], 0)):
        cache.remove_orphan(orphan, 0)
    assert not any(path.exists() for path in temporary)
    local_artefact.verify(finished(local_artefact)["a"])


@pytest.mark.parametrize("moment", ["temporary file", "file without a marker"])
def test_a_file_removed_while_it_is_written_is_written_again(
    local_artefact: Artefact, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`gc --older-than 0` beside a run, or a clock that jumps by a day."""
    cache = cache_of(local_artefact)
    write(local_artefact, "b")  # nothing is removed from an artefact without markers
    removed: list[str] = []

    def collect_garbage() -> None:
        for path in list(cache.find_orphans([local_artefact], 0)):
            assert cache.remove_orphan(path, 0)
            removed.append(path)

    real_replace, real_create = os.replace, LocalStorage.create

    def replace(source: Path, target: Path) -> None:
        if not removed:
            collect_garbage()
        real_replace(source, target)

    def create(self: LocalStorage, path: str, data: bytes) -> bool:
        collect_garbage()
        return real_create(self, path, data)

    with monkeypatch.context() as patch:
        if moment == "temporary file":
            patch.setattr(os, "replace", replace)
        else:
            patch.setattr(LocalStorage, "create", create)
        write(local_artefact)
    assert len(removed) == 1
    local_artefact.verify(finished(local_artefact)["a"])


def test_an_image_committed_during_the_listing_is_no_orphan(
    local_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(local_artefact, "b")
    local_artefact.remove_marker("b")
    entries, commits = LocalStorage.entries, []

    def list_and_commit(self: LocalStorage, path: str) -> Iterator[Entry]:
        for entry in list(entries(self, path)):
            if path.endswith("/images") and not commits:
                commits.append(path)
                write(local_artefact, "b")  # after the listing, and before its entry is returned
            yield entry

    monkeypatch.setattr(LocalStorage, "entries", list_and_commit)
    assert list(cache_of(local_artefact).find_orphans([local_artefact], 0)) == []
    assert commits


def test_summary_counts_bytes_by_array(artefact: Artefact) -> None:
    write(artefact, "a")
    write(artefact, "b")
    summary = cache_of(artefact).summarise(artefact)
    assert (summary.images, summary.failed) == (2, 0)
    assert set(summary.bytes_by_array) == {*ARRAYS, "(group)"}
    assert sum(summary.bytes_by_array.values()) == artefact.storage.size(f"{artefact.path}/images")


def test_several_files_are_read_in_order(artefact: Artefact) -> None:
    storage = artefact.storage
    for name in "abc":
        storage.replace(f"more/{name}", name.encode())
    assert list(storage.read_many(["more/c", "more/x", "more/a", "more/b"])) == [b"c", None, b"a", b"b"]
    assert list(storage.read_many([])) == []
    many = [f"more/{'abcx'[k % 4]}" for k in range(1000)]
    assert list(storage.read_many(many)) == [b"a", b"b", b"c", None] * 250


def test_an_unwritable_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    cache = Cache(str(tmp_path / "folder"), "toy")
    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    with pytest.raises(UserError, match=r"cannot be written .*; expected a writable folder"):
        cache.storage.check_writable()


@pytest.mark.parametrize("place", ["file", "file/x", "file/x/y"])
def test_a_file_in_the_place_of_the_cache_is_refused(tmp_path: Path, place: str) -> None:
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
def test_unusable_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=f"cache {url}: {message}"):
        RemoteStorage(url)
