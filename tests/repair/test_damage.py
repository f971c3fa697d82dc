"""Damage of every file of the cache: never read, named by `verify`, repaired by `verify --repair`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.caches import finished
from tests.conftest import Project
from tests.repair.helpers import (
    DAMAGES,
    compute,
    everything,
    files,
    flip,
    opened,
    problems,
    repaired,
    root,
)


def check_damage(project: Project, paths: list[Path], damage: str, kind: str) -> None:
    """Checks that no wrong value is read, every damaged file is named, and the stages restore all after a repair."""
    whole = everything(project)
    before = [path.read_bytes() for path in paths]
    for path in paths:
        DAMAGES[damage](path)
    now = everything(project)
    assert [name for name, value in now.items() if whole.get(name) != value] == []
    lost_record = damage == "deleted" and kind in ("marker", "failure")  # without a marker no image is finished
    expected = 0 if lost_record else len(paths)
    assert len(problems(project)) == expected
    assert bool(repaired(project)) == bool(expected)  # images computed from damaged ones are removed too
    compute(project)
    assert problems(project) == []
    assert everything(project) == whole
    if kind == "image":
        assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["root", "marker", "failure", "image"])
def test_damage_is_never_read_and_is_repaired(project: Project, kind: str, damage: str) -> None:
    """Of all files of a kind at once, for one panorama."""
    paths = [path for path in files(project)[kind] if "p001" not in path.name]
    check_damage(project, paths, damage, kind)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["root", "marker", "failure", "image"])
def test_damage_of_each_file_alone_is_repaired(project: Project, kind: str, damage: str) -> None:
    for path in files(project)[kind]:
        check_damage(project, [path], damage, kind)


def test_a_repair_removes_all_images_computed_from_a_damaged_one(project: Project) -> None:
    """The same masks and logits are computed again, so their content does not show that the ensemble is outdated."""
    for kind, dependents in (("sam", {"sam", "masks", "fused"}), ("teacher", {"teacher", "fused"})):
        (path,) = [path for path in files(project)["image"] if kind in path.parts and path.name.startswith("p001.")]
        flip(path)
        assert repaired(project) == 1
        removed = {a.kind for a in opened(project).artefacts() if "p001" not in finished(a)}
        assert removed == dependents
        assert all("p000" in finished(artefact) for artefact in opened(project).artefacts())
        compute(project)
    assert problems(project) == []


@pytest.mark.parametrize("name", ["._p000.json", "p000 (copy).json", "notes.txt", "p000.json.bak"])
@pytest.mark.parametrize("folder", ["done", "failed"])
def test_a_stray_file_blocks_nothing_and_is_removed_by_a_repair(project: Project, folder: str, name: str) -> None:
    (artefact,) = [a for a in opened(project).artefacts() if a.kind == "sam"]
    path = root(project) / artefact.path / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((root(project) / artefact.path / "done" / "p000.json").read_bytes())
    whole = everything(project)
    compute(project)
    hidden = name.startswith(".")  # macOS writes such files beside copies; listings pass over them
    assert repaired(project) == (0 if hidden else 1)
    assert path.exists() == hidden
    assert everything(project) == whole


def test_flipped_bits_are_never_read(project: Project) -> None:
    """Random bits of random files: a reader gets the written values or an error."""
    whole, rng = everything(project), random.Random(0)
    every = [path for paths in files(project).values() for path in paths]
    for _ in range(60):
        path = rng.choice(every)
        before = path.read_bytes()
        data = bytearray(before)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        now = everything(project)
        assert [name for name, value in now.items() if whole.get(name) != value] == [], path
        path.write_bytes(before)
