"""An empty artefact in a local folder, and in a file system of fsspec."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cache import Artefact, Cache


@pytest.fixture(params=["local", "memory"])
def artefact(request: pytest.FixtureRequest, tmp_path: Path) -> Artefact:
    url = str(tmp_path / "cache") if request.param == "local" else f"memory://{tmp_path.name}"
    artefact = Cache(url, "toy").artefact("teacher", "k1")
    artefact.create({"a": 1}, {})
    return artefact


@pytest.fixture
def local_artefact(tmp_path: Path) -> Artefact:
    artefact = Cache(str(tmp_path / "cache"), "toy").artefact("teacher", "k1")
    artefact.create({}, {})
    return artefact
