"""The local file system at its worst: lost answers of NFS, no hard links, a power cut, a full disk."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache
from pipeline.core.errors import UserError
from stages.precompute.stage import precompute
from tests.cache.helpers import ARRAYS, write
from tests.caches import failed, finished
from tests.conftest import Project


def test_a_link_whose_answer_was_lost_counts_as_made(local_artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request without an answer; the second one finds the link that the first one made."""
    link = os.link

    def link_twice(source: Any, target: Any) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_twice)
    write(local_artefact)
    local_artefact.verify(finished(local_artefact)["a"])
    np.testing.assert_array_equal(local_artefact.read("a").read_array("logits"), ARRAYS["logits"])


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_the_first_marker_stays_without_hard_links_too(
    local_artefact: Artefact, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(number, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write(local_artefact)
    first = finished(local_artefact)["a"]
    write(local_artefact)
    assert finished(local_artefact)["a"] == first
    local_artefact.verify(first)


def test_new_folders_are_flushed_before_the_marker_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a marker must not reference folders that never reached the disk."""
    artefact = Cache(str(tmp_path / "cache"), "toy").artefact("teacher", "k1")
    artefact.create({}, {})
    flushed: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def link(source: Any, target: Any) -> None:
        if f"{os.sep}done{os.sep}" in str(target):
            flushed.append("marker")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    write(artefact, "street/a")
    before, after = flushed[: flushed.index("marker")], flushed[flushed.index("marker") :]
    root = tmp_path / "cache" / "toy"
    file = root / artefact.file_path(finished(artefact)["street/a"])
    assert {str(path) for path in file.parents if path.is_relative_to(root)} <= set(before)
    assert any(Path(path).parent == file.parent and path.endswith(".tmp") for path in before)
    assert str(root / artefact.path / "done") in after
    assert str(root / artefact.path) in before


def test_a_disk_that_fills_up_at_any_write_ends_the_run_with_one_error(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th fsync of a run finds the disk full, for every fifth k until the run succeeds."""
    project = make_project(1)
    real_sync, remaining = os.fsync, [0]

    def sync(descriptor: int) -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)

    def run(k: int) -> str | None:
        """Returns the error of a run with room for `k` flushes, `None` if it succeeds; finished images are complete."""
        remaining[0] = k
        cache = str(tmp_path / f"cache{k}")
        message = None
        try:
            reports = precompute(project.manifest(), project.config(f"cache={cache}"))
            assert [report.computed for report in reports] == [1, 1, 1]
        except UserError as error:
            message = str(error)
        for artefact in Cache(cache, "toy").artefacts():
            for marker in finished(artefact).values():
                artefact.verify(marker)
        return message

    messages = list(itertools.takewhile(lambda message: message is not None, map(run, range(0, 1000, 5))))
    assert 10 < len(messages) < 200
    expected = "cannot be written (No space left on device); nothing finished is lost"
    assert all(message is not None and expected in message for message in messages)


def test_a_failure_that_cannot_be_recorded_on_a_full_disk_is_one_error(
    local_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        local_artefact.record_failure("a", "file is truncated")
    assert failed(local_artefact) == {}
    assert not list(Path(local_artefact.storage.url).rglob("*.tmp"))
