"""The cache under bad luck, one precise moment at a time: lost answers, races, damage, a disk that fills up."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ImageError, UserError
from pipeline.store import Artefact, Cache, Source
from pipeline.store.storage import LocalStorage
from pipeline.store.upstream import upstream_markers
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


@pytest.mark.parametrize("more", [0, 1])
def test_an_attempt_swept_while_it_is_written_is_not_committed(artefact: Artefact, more: int) -> None:
    """``gc --older-than 0`` beside a run: chunks written before are gone, and would be read as zeros."""
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")

    def write_while_swept() -> None:
        with artefact.write("a") as attempt:
            attempt.array("x", np.ones((4, 6)), chunks=(2, 3))
            cache.sweep(cache.orphans(0))
            for k in range(more):
                attempt.array(f"y{k}", np.ones(3))

    with pytest.raises(ImageError, match=r"[56] of [68] files are gone, .* first; expected all that were written"):
        write_while_swept()
    assert artefact.done() == {}
    write(artefact)
    artefact.verify(artefact.done()["a"])


def test_what_is_committed_while_gc_looks_is_no_orphan(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")
    folders, began = LocalStorage.folders, []

    def commit_meanwhile(self: LocalStorage, path: str) -> list[str]:
        if path.endswith("/images") and not began:
            began.append(path)
            write(artefact)  # from here on the attempt is listed; its marker is there before the listing ends
        return folders(self, path)

    monkeypatch.setattr(LocalStorage, "folders", commit_meanwhile)
    assert cache.orphans(0) == []
    assert began


def test_temporary_files_of_killed_writers_are_swept(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artefact)
    root = Path(artefact.storage.url)
    left = [
        root / folder / ".0123.tmp"
        for folder in ("", artefact.path, f"{artefact.path}/done", f"{artefact.path}/failed")
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    cache = Cache(str(root.parent), "toy")
    assert cache.orphans(3600) == []
    cache.sweep(cache.orphans(0))
    assert not any(path.exists() for path in left)
    artefact.verify(artefact.done()["a"])


def test_a_kill_between_marker_and_failure_leaves_no_failed_image(artefact: Artefact) -> None:
    write(artefact)
    artefact.storage.replace(f"{artefact.path}/failed/a.json", b'{"id": "a", "reason": "not computed"}')
    assert artefact.failed() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a valid marker"),
        ('{"id": "a"}', "expected a JSON object with 'id' and 'attempt'"),
        ('{"id": "a", "attempt": "../../x"}', r"attempt is '../../x', expected letters"),
        ('{"id": "a", "attempt": "t", "files": ["x"]}', "files is .*, expected a JSON object"),
        ('{"id": "a", "attempt": "t", "files": {"x": 3}}', "is not a valid marker"),
        ('{"id": "a", "attempt": "t", "inputs": [1]}', "inputs is .*, expected a JSON object"),
        ('{"id": "a", "attempt": "t", "source": {"size": 1}}', "is not a valid marker"),
        ('{"id": "street/a", "attempt": "t"}', r"is the marker of 'street/a', expected in street%2Fa\.json"),
    ],
)
def test_a_damaged_or_misnamed_marker_is_told_wherever_it_is_read(artefact: Artefact, text: str, message: str) -> None:
    artefact.storage.replace(f"{artefact.path}/done/a.json", text.encode())
    for call in (artefact.done, lambda: artefact.marker("a"), lambda: artefact.read("a")):
        with pytest.raises(UserError, match=rf"done/a\.json: .*{message}"):
            call()


def test_a_damaged_failure_is_told(artefact: Artefact) -> None:
    for text in ("", "[]", '{"id": "a"}'):
        artefact.storage.replace(f"{artefact.path}/failed/a.json", text.encode())
        with pytest.raises(UserError, match=r"failed/a\.json: is not a valid record of a failure"):
            artefact.failed()


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
    opened: dict[int, str] = {}
    real_open, real_sync, real_link = os.open, os.fsync, os.link

    def remember(path: Any, *flags: Any, **more: Any) -> int:
        descriptor = real_open(path, *flags, **more)
        opened[descriptor] = os.path.realpath(path)
        return descriptor

    def sync(descriptor: int) -> None:
        synced.append(opened.get(descriptor, ""))
        real_sync(descriptor)

    def link(source: Any, target: Any) -> None:
        if f"{os.sep}done{os.sep}" in str(target):
            synced.append("marker")
        real_link(source, target)

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    write(artefact, "street/a")
    before, after = synced[: synced.index("marker")], synced[synced.index("marker") :]
    root = tmp_path / "cache" / "toy"
    marker = artefact.done()["street/a"]
    group = root / artefact.attempt_path(marker)
    needed = [group / name for name in marker.files] + [group, *group.parents]
    needed = [path for path in needed if path.is_relative_to(root)]
    assert {str(path) for path in needed} <= set(before)
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
        """What a run says that may sync ``k`` times; None if it comes through. Whatever it finished is whole."""
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
    assert set(document) == {"id", "attempt", "source", "inputs", "files"}
    assert document["id"] == "straße 1"
    assert document["source"] == {"size": 1, "mtime_ns": 2, "sha256": "3"}
    assert all(isinstance(size, int) and len(digest) == 64 for size, digest in document["files"].values())
