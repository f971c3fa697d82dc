"""The cache under bad luck, one precise moment at a time: lost answers, races, damage, a disk that fills up."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Source
from pipeline.cache.local import LocalStorage
from pipeline.cache.storage import Entry
from pipeline.cache.upstream import upstream_markers
from pipeline.core.errors import ImageError, UserError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.models import street


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    artefact = Cache(str(tmp_path / "cache"), "toy").artefact("teacher", "k1")
    artefact.create({}, {})
    return artefact


def write(artefact: Artefact, image_id: str = "a", value: int = 1, **more: Any) -> None:
    with artefact.write(image_id, **more) as attempt:
        attempt.array("x", np.full((4, 6), value), chunks=(2, 3))


def test_a_link_whose_answer_got_lost_is_our_own(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request that got no answer; the second time the server finds the link that it made itself.

    Taken for another process's marker, our own attempt, which the marker names, would be removed as the second one.
    """
    link = os.link

    def link_twice(source: Any, target: Any) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_twice)
    write(artefact)
    artefact.verify(artefact.done()["a"])
    np.testing.assert_array_equal(artefact.read("a").array("x"), np.ones((4, 6)))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_hard_links_the_first_marker_stays_too(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(number, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write(artefact)
    first = artefact.done()["a"]
    write(artefact)
    assert artefact.done()["a"] == first
    artefact.verify(first)


@pytest.mark.parametrize("moment", ["temporary file", "file without a marker"])
def test_what_is_swept_while_it_is_written_is_written_again(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`gc --older-than 0` beside a run, or a clock that jumps by a day."""
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")
    write(artefact, "b")  # where nothing is finished, nothing is swept
    swept: list[str] = []

    def sweep() -> None:
        for path in list(cache.orphans([artefact], 0)):
            assert cache.sweep(path, 0)
            swept.append(path)

    real_replace, real_create = os.replace, LocalStorage.create

    def replace_swept(source: Any, target: Any) -> None:
        if not swept:
            sweep()
        real_replace(source, target)

    def create_swept(self: LocalStorage, path: str, data: bytes) -> bool:
        sweep()
        return real_create(self, path, data)

    with monkeypatch.context() as patch:
        if moment == "temporary file":
            patch.setattr(os, "replace", replace_swept)
        else:
            patch.setattr(LocalStorage, "create", create_swept)
        write(artefact)
    assert len(swept) == 1
    artefact.verify(artefact.done()["a"])


def test_what_is_committed_while_gc_looks_is_no_orphan(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")
    write(artefact, "b")
    artefact.forget("b")
    entries, began = LocalStorage.entries, []

    def commit_meanwhile(self: LocalStorage, path: str) -> Iterator[Entry]:
        for entry in list(entries(self, path)):
            if path.endswith("/images") and not began:
                began.append(path)
                write(artefact, "b")  # the file has been listed; its marker is there before it comes up
            yield entry

    monkeypatch.setattr(LocalStorage, "entries", commit_meanwhile)
    assert list(cache.orphans([artefact], 0)) == []
    assert began


def test_temporary_files_of_killed_writers_are_swept(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artefact)
    root = Path(artefact.storage.url)
    left = [
        root / folder / ".0123.tmp"
        for folder in ("", *(f"{artefact.path}{name}" for name in ("", "/done", "/failed", "/images")))
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    cache = Cache(str(root.parent), "toy")
    assert list(cache.orphans([artefact], 3600)) == []
    for path in list(cache.orphans([artefact], 0)):
        cache.sweep(path, 0)
    assert not any(path.exists() for path in left)
    artefact.verify(artefact.done()["a"])


def test_a_kill_between_marker_and_failure_leaves_no_failed_image(artefact: Artefact) -> None:
    write(artefact)
    artefact.storage.replace(f"{artefact.path}/failed/a.json", b'{"id": "a", "reason": "not computed"}')
    assert artefact.failed() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "holds a list, expected a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "a"}', "expected a JSON object with 'id' and 'file'"),
        ('{"id": "a", "file": "../../x.zip"}', "file is '../../x.zip', expected a.<letters"),
        ('{"id": "a", "file": "a.../x.zip"}', "file is .*, expected a.<letters"),
        ('{"id": "a", "file": "b.x.zip"}', "file is 'b.x.zip', expected a.<letters"),
        ('{"id": "a", "file": "a.x.zip", "size": "1"}', "size is '1'"),
        ('{"id": "a", "attempt": "../../x"}', "attempt is '../../x', expected letters"),
        ('{"id": "a", "attempt": "t", "files": ["x"]}', "files is .*, expected a JSON object"),
        ('{"id": "a", "attempt": "t", "files": {"x": 3}}', "files: "),
        ('{"id": "a", "attempt": "t", "files": {"../x": [3, "0"]}}', "files names a file outside"),
        ('{"id": "a", "file": "a.t.zip", "inputs": [1]}', "inputs is .*, expected a JSON object"),
        ('{"id": "a", "file": "a.t.zip", "source": {"size": 1}}', "source is .*, expected size, mtime_ns and sha256"),
        ('{"id": "a", "file": "a.t.zip", "checksum": "0"}', "does not have the checksum"),
        ('{"id": "street/a", "attempt": "t"}', r"is of image 'street/a', expected in street%2Fa\.json"),
    ],
)
def test_a_damaged_or_misnamed_marker_is_none_and_is_told(artefact: Artefact, text: str, message: str) -> None:
    write(artefact, "b")
    artefact.storage.replace(f"{artefact.path}/done/a.json", text.encode())
    told: list[tuple[str, str]] = []
    assert [marker.id for marker in artefact.markers(lambda *what: told.append(what))] == ["b"]
    ((path, reason),) = told
    assert path == f"{artefact.path}/done/a.json"
    assert re.search(message, reason), reason
    assert artefact.marker("a") is None
    with pytest.raises(ImageError, match="a: is not in"):
        artefact.read("a")
    write(artefact)
    artefact.verify(artefact.done()["a"])


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', '{"id": "b", "reason": "x"}'])
def test_a_damaged_failure_is_none_and_is_told(artefact: Artefact, text: str) -> None:
    artefact.storage.replace(f"{artefact.path}/failed/a.json", text.encode())
    told: list[tuple[str, str]] = []
    assert list(artefact.failures(lambda *what: told.append(what))) == []
    assert [path for path, _ in told] == [f"{artefact.path}/failed/a.json"]
    assert "damaged" in (artefact.failure_reason("a") or "")


@pytest.mark.parametrize("name", ["._a.json", "a (copy).json", "b.json.bak"])
def test_a_stray_file_beside_the_markers_changes_nothing(artefact: Artefact, name: str) -> None:
    write(artefact)
    marker = artefact.storage.read(f"{artefact.path}/done/a.json")
    artefact.storage.replace(f"{artefact.path}/done/{name}", marker)
    assert set(artefact.done()) == {"a"}
    artefact.read("a").array("x")


def test_versions_of_an_image_are_not_mixed(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), "toy")
    upstream = {kind: cache.artefact(kind, "k") for kind in ("teacher", "sam", "masks")}
    old, new = Source(1, 1, "old"), Source(1, 2, "new")
    for artefact in upstream.values():
        artefact.create({}, {})
    write(upstream["sam"], source=old)
    write(upstream["teacher"], source=old)
    sam = upstream["sam"].marker("a")
    assert sam is not None
    write(upstream["masks"], inputs={"sam": sam.content})
    assert set(upstream_markers("a", upstream)) == set(upstream)
    write(upstream["teacher"], source=new)
    with pytest.raises(ImageError, match="teacher and sam were made from different versions of the image"):
        upstream_markers("a", upstream)
    write(upstream["sam"], value=2, source=new)
    with pytest.raises(ImageError, match="masks: was made from another version of sam"):
        upstream_markers("a", upstream)


def test_a_replaced_image_is_not_fused_with_the_masks_of_the_old_one(project: Project) -> None:
    precompute(project.manifest(), project.config())
    assert fuse(project.manifest(), project.config()).computed == 3
    project.add_image("p001.png", street(seed=50))
    precompute(project.manifest(), project.config(), only=["teacher"])
    report = fuse(project.manifest(), project.config())
    assert list(report.failures) == ["p001"]
    assert "different versions of the image" in report.failures["p001"]
    precompute(project.manifest(), project.config())
    assert fuse(project.manifest(), project.config()).computed == 1


def test_new_folders_are_on_the_disk_before_the_marker_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a marker must not name folders that the disk never heard of."""
    artefact = Cache(str(tmp_path / "cache"), "toy").artefact("teacher", "k1")
    artefact.create({}, {})
    synced: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def link(source: Any, target: Any) -> None:
        if f"{os.sep}done{os.sep}" in str(target):
            synced.append("marker")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    write(artefact, "street/a")
    before, after = synced[: synced.index("marker")], synced[synced.index("marker") :]
    root = tmp_path / "cache" / "toy"
    marker = artefact.done()["street/a"]
    file = root / artefact.file_path(marker)
    needed = [path for path in file.parents if path.is_relative_to(root)]
    assert {str(path) for path in needed} <= set(before)
    assert any(Path(path).parent == file.parent and path.endswith(".tmp") for path in before)
    assert {str(root / artefact.path / "done")} <= set(after)
    assert {str(root / artefact.path)} <= set(before)


def test_a_disk_that_fills_up_at_any_write_is_one_sentence(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th fsync of the run finds the disk full (emulated), for every fifth k until the run comes through."""
    project = make_project(1)
    real, left = os.fsync, [0]

    def sync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)

    def run(k: int) -> str | None:
        """What a run says that may sync `k` times; None if it comes through. Whatever it finished is whole."""
        left[0] = k
        cache = str(tmp_path / f"cache{k}")
        said = None
        try:
            reports = precompute(project.manifest(), project.config(f"cache={cache}"))
            assert [report.computed for report in reports] == [1, 1, 1]
        except UserError as error:
            said = str(error)
        for artefact in Cache(cache, "toy").artefacts():
            for marker in artefact.done().values():
                artefact.verify(marker)
        return said

    said = list(itertools.takewhile(lambda text: text is not None, map(run, range(0, 1000, 5))))
    assert 10 < len(said) < 200
    full = "cannot be written (No space left on device); nothing finished is lost"
    assert all(text is not None and full in text for text in said)


def test_an_image_that_fails_on_a_full_disk_is_told_as_a_full_disk(artefact: Artefact) -> None:
    """The record of a failure cannot be kept either: no traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            artefact.record_failure("a", "file is truncated")
    assert artefact.failed() == {}
    assert not list(Path(artefact.storage.url).rglob("*.tmp"))


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_markers_are_plain_json(artefact: Artefact) -> None:
    write(artefact, "straße 1", source=Source(1, 2, "3"), inputs={"sam": "c"})
    text = (Path(artefact.storage.url) / artefact.path / "done" / "stra%C3%9Fe 1.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert set(document) == {
        "id", "file", "size", "sha256", "content", "source", "inputs", "arrays", "checksum"
    }  # fmt: skip
    assert document["id"] == "straße 1"
    assert document["source"] == {"size": 1, "mtime_ns": 2, "sha256": "3"}
    assert document["size"] == artefact.storage.size(f"{artefact.path}/images/{document['file']}")
    assert len(document["sha256"]) == 64
    assert set(document["arrays"]) == {"", "x"}
