"""Stale images are detected: by their image file, and by the versions of their upstream images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Marker, Source
from pipeline.cache.freshness import read_source, source_matches, upstream_markers
from pipeline.core.errors import ImageError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.cache.helpers import write
from tests.conftest import Project
from tests.models import street


def test_a_replaced_file_is_detected_and_a_touched_one_matches(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1234")
    marker = Marker("a", "a.t.zip", read_source(path))
    assert source_matches(marker, path)
    path.touch()
    assert source_matches(marker, path)
    path.write_bytes(b"1235")
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert not source_matches(marker, path)
    path.write_bytes(b"12345")
    assert not source_matches(marker, path)
    assert not source_matches(None, path)


def test_a_file_replaced_with_its_size_and_time_kept_is_detected_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1234")
    marker, stat = Marker("a", "a.t.zip", read_source(path)), path.stat()
    path.write_bytes(b"1235")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source_matches(marker, path)
    assert not source_matches(marker, path, by_content=True)


def write_version(artefact: Artefact, version: int = 1, source: Source | None = None, **inputs: str) -> None:
    write(artefact, arrays={"x": np.full((2, 2), version)}, source=source, inputs=inputs)


def test_versions_of_an_image_are_not_mixed(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), "toy")
    upstream = {kind: cache.artefact(kind, "k") for kind in ("teacher", "sam", "masks")}
    old, new = Source(1, 1, "old"), Source(1, 2, "new")
    for artefact in upstream.values():
        artefact.create({}, {})
    write_version(upstream["sam"], source=old)
    write_version(upstream["teacher"], source=old)
    sam = upstream["sam"].find_marker("a")
    assert sam is not None
    write_version(upstream["masks"], sam=sam.content)
    assert set(upstream_markers("a", upstream)) == set(upstream)
    write_version(upstream["teacher"], source=new)
    with pytest.raises(ImageError, match="teacher and sam were made from different versions of the image"):
        upstream_markers("a", upstream)
    write_version(upstream["sam"], version=2, source=new)
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
