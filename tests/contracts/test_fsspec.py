"""What `pipeline.cache.remote` expects of any file system of fsspec. Checked with fsspec 2026.9."""

from __future__ import annotations

from importlib.metadata import version

import fsspec
import pytest

VERSION = f"fsspec {version('fsspec')}"


def test_files_are_written_read_listed_and_removed() -> None:
    fs, root = fsspec.core.url_to_fs("memory://contract/cache")
    fs.makedirs(f"{root}/a", exist_ok=True)
    fs.pipe_file(f"{root}/a/x", b"1")
    contents = fs.cat([f"{root}/a/x", f"{root}/a/y"], on_error="return")
    assert contents[f"{root}/a/x"] == b"1", VERSION
    assert isinstance(contents[f"{root}/a/y"], FileNotFoundError), VERSION
    assert fs.info(f"{root}/a/x")["type"] == "file", VERSION
    assert [(info["name"], info["type"]) for info in fs.ls(root, detail=True)] == [(f"{root}/a", "directory")], VERSION
    assert fs.find(root, detail=True)[f"{root}/a/x"]["size"] == 1, VERSION
    assert fs.modified(f"{root}/a/x"), VERSION
    fs.rm_file(f"{root}/a/x")
    for call in (fs.cat_file, fs.info, fs.rm_file):
        with pytest.raises(FileNotFoundError):
            call(f"{root}/a/x")
