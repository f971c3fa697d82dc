"""A small cache, its contents for a reader, and ways to damage it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cache import Cache
from pipeline.core.errors import ImageError, UserError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.verify.check import CacheCheck, Problem, repair
from tests.conftest import Project

REPOSITORY = Path(__file__).resolve().parents[2]
RULE = "fusion.rule=best"


def compute(project: Project) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config(RULE))


def opened(project: Project) -> Cache:
    return Cache(project.config().cache, project.manifest().name)


def everything(project: Project) -> dict[str, Any]:
    """Returns every array and attribute of every finished image that can be read, and every failure."""
    result: dict[str, Any] = {}
    for artefact in opened(project).artefacts():
        try:
            attributes = artefact.attributes()
            result[artefact.path] = {
                name: attributes[name] for name in attributes if name not in ("versions", "checksum")
            }
        except UserError:
            continue
        for image_id in (record.id for record in project.manifest().images):
            try:
                group = artefact.read(image_id)
                result[f"{artefact.path} {image_id}"] = group.attributes
                for name in group.array_names():
                    result[f"{artefact.path} {image_id} {name}"] = group.read_array(name).tobytes()
            except ImageError:
                pass
        result |= {f"{artefact.path} {failure.id} failed": failure.reason for failure in artefact.failures()}
    return result


def problems(project: Project) -> list[Problem]:
    records = project.manifest().images
    return list(CacheCheck(opened(project), records).problems())


def repaired(project: Project) -> int:
    """Repairs the cache and returns the number of problems."""
    count = 0
    for problem in CacheCheck(opened(project), project.manifest().images).problems():
        repair(opened(project), problem)
        count += 1
    return count


def root(project: Project) -> Path:
    return project.folder / "cache" / "toy"


def files(project: Project) -> dict[str, list[Path]]:
    """Returns every file of the cache by its kind."""
    paths: dict[str, list[Path]] = {"root": [], "marker": [], "failure": [], "image": []}
    for path in sorted(root(project).rglob("*")):
        if path.is_file():
            kind = {"done": "marker", "failed": "failure", "images": "image"}.get(path.parent.name, "root")
            paths[kind].append(path)
    return paths


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Copies another file of the folder over `path`, or other text if it is the only one."""
    others = [other for other in sorted(path.parent.iterdir()) if other != path and other.is_file()]
    path.write_bytes(others[0].read_bytes() if others else b'{"a": 1}')


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "flipped": flip,
    "emptied": empty,
    "deleted": Path.unlink,
    "swapped": swap,
}


def command(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments, *project.arguments()],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
