"""Files appear complete or not at all, and no planted link is followed."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from pipeline.core.atomic_files import atomic_write, lock_folder, write_result
from pipeline.core.errors import ImageError, UserError


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.read_bytes() == b""
        assert not path.exists()
        temporary.write_text("first")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(f"{1 / 0}")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_links_are_replaced_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious, path = tmp_path / "precious", tmp_path / "out" / "a.txt"
    precious.write_text("precious")
    path.parent.mkdir()
    path.symlink_to(precious)
    (path.parent / ".a.txt.tmp").symlink_to(precious)
    with atomic_write(path) as temporary:
        assert temporary.name != ".a.txt.tmp"
        temporary.write_text("new")
    assert (precious.read_text(), path.read_text(), path.is_symlink()) == ("precious", "new", False)

    class Known:
        hex = "known"

    monkeypatch.setattr("pipeline.core.atomic_files.uuid.uuid4", Known)
    (path.parent / ".known.tmp").symlink_to(precious)
    with pytest.raises(FileExistsError), atomic_write(path):
        pass
    assert precious.read_text() == "precious"


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock: is no ordinary file"), lock_folder(tmp_path, "is in use"):
        pass
    assert precious.read_text() == "precious"
    (tmp_path / ".lock").unlink()
    with (
        lock_folder(tmp_path, "is in use"),
        pytest.raises(UserError, match="is in use"),
        lock_folder(tmp_path, "is in use"),
    ):
        pass


def test_a_forked_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    forked, end = processes.Event(), processes.Event()

    def work() -> None:
        forked.set()
        end.wait(60)

    child = processes.Process(target=work)
    try:
        with lock_folder(tmp_path, "is in use"):
            child.start()
            assert forked.wait(60)
            with pytest.raises(UserError, match="is in use"), lock_folder(tmp_path, "is in use"):
                pass
        with lock_folder(tmp_path, "is in use"):
            assert child.is_alive()
    finally:
        end.set()
        child.join()


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    def write(text: str) -> None:
        for _ in range(50):
            with atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text(text * 1000)

    writers = [threading.Thread(target=write, args=(text,)) for text in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a.txt").read_text() in ("a" * 1000, "b" * 1000)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_is_too_long_is_the_failure_of_its_image(tmp_path: Path) -> None:
    write_result(tmp_path / ("x" * 251 + ".png"), lambda stream: stream.write(b"x"))
    with pytest.raises(ImageError, match="the name is too long"):
        write_result(tmp_path / ("x" * 252 + ".png"), lambda stream: stream.write(b"x"))
    assert len(list(tmp_path.iterdir())) == 1
