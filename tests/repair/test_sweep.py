"""Files that `gc` and `verify --repair` must leave alone, and the order in which they remove others."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, ImageWriter, Marker
from pipeline.cache.local import LocalStorage
from pipeline.cache.zip_file import pack
from pipeline.core.errors import UserError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.verify.check import CacheCheck, repair
from tests.caches import finished
from tests.conftest import Project
from tests.repair.helpers import (
    RULE,
    command,
    compute,
    everything,
    files,
    flip,
    opened,
    problems,
    repaired,
    root,
    snapshot,
)

# -- files that are left alone


def test_gc_and_verify_never_follow_a_link(project: Project, tmp_path: Path) -> None:
    """A cache from somebody else, with links to a home folder in place of folders of images."""
    home = tmp_path / "home"
    for name in ("documents/letters", "documents/done"):
        (home / name).mkdir(parents=True)
        (home / name / "a.txt").write_text("precious")
        (home / name / ".0123.tmp").write_text("precious")
    before = snapshot(home)
    (sam, *_) = opened(project).artefacts()
    folder = root(project) / sam.path
    (folder / "images" / "x").symlink_to(home)
    (folder / "images" / "y.0123.zip").symlink_to(home / "documents/letters/a.txt")
    (folder / "images" / "back").symlink_to(project.folder)
    (root(project) / "sam" / "0123456789ab").symlink_to(home)
    (root(project) / "masks" / "linked").symlink_to(home / "documents")
    (folder / "done" / "z.json").symlink_to(home / "documents/letters/a.txt")
    shutil.rmtree(root(project) / "fused")
    (root(project) / "fused").symlink_to(home)
    whole = everything(project)
    for arguments in (["gc", "--older-than", "0"], ["verify", "--repair"], ["verify", "--repair"]):
        done = command(project, *arguments)
        assert done.returncode == 0, done.stderr
        assert snapshot(home) == before
    assert everything(project) == whole


def test_nothing_is_removed_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "home" / "x").mkdir(parents=True)
    cache = Cache(str(tmp_path / "cache"), "toy")
    cache.storage.replace("a/b", b"")
    (tmp_path / "cache" / "toy" / "a" / "link").symlink_to(tmp_path / "home")
    with pytest.raises(UserError, match=r"is reached through a link in the cache .* nothing is removed there"):
        cache.storage.delete("a/link/x")
    cache.storage.delete("a/link")
    assert (tmp_path / "home" / "x").is_dir()
    assert not (tmp_path / "cache" / "toy" / "a" / "link").exists()


def test_another_format_is_left_alone(project: Project) -> None:
    (fused,) = [artefact for artefact in opened(project).artefacts() if artefact.kind == "fused"]
    path = root(project) / fused.path / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"] = {"format": 3}
    path.write_text(json.dumps(document))
    (root(project) / fused.path / "images" / "orphan.0.zip").write_bytes(b"")
    flip(files(project)["image"][-1])
    before = snapshot(root(project) / fused.path)
    sentence = f"{fused.path}/zarr.json: attribute 'format' is 3, expected 2"
    for arguments in (["gc", "--older-than", "0"], ["verify", "--repair"], ["migrate"], ["inspect"]):
        done = command(project, *arguments)
        assert sentence in done.stdout, (arguments, done.stdout, done.stderr)
        assert done.returncode == 0
        assert snapshot(root(project) / fused.path) == before
    done = command(project, "fuse", "--set", RULE)
    assert (done.returncode, sentence in done.stderr) == (2, True)


def test_the_command_names_damage_and_repairs_it(project: Project) -> None:
    path = next(path for path in files(project)["image"] if "teacher" in path.parts)
    flip(path)
    done = command(project, "verify", "--json")
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, figures["damaged"], figures["forgotten"]) == (3, 1, 0)
    assert path.name in done.stderr
    done = command(project, "verify", "--repair", "--json")
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, figures["damaged"], figures["forgotten"]) == (0, 1, 2)
    compute(project)
    assert command(project, "verify").returncode == 0


def test_verify_counts_an_image_file_that_changed(project: Project) -> None:
    path = project.folder / "images" / "p000.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [p.marker.id for p in problems(project) if p.marker] == ["p000"] * 4
    assert np.all([report.computed == 0 for report in precompute(project.manifest(), project.config())])


def test_a_ta_adapted_on_repaired_labels_is_named(project: Project) -> None:
    from stages.verify.check import find_adapted_teachers

    (fused,) = [artefact for artefact in opened(project).artefacts() if artefact.kind == "fused"]
    Artefact(fused.storage, "teacher", "adapted").create({}, {}, adapted_from={"teacher": "x", "fused": fused.key})
    assert find_adapted_teachers(opened(project), fused.path) == ["teacher/adapted"]


# -- order and extent of a repair


def write_foreign_logits(project: Project, value: int) -> Artefact:
    """Returns logits of a foreign program, whose root group and markers hold the required entries only."""
    (teacher,) = [a for a in opened(project).artefacts() if a.kind == "teacher" and a.key != "my_model"]
    artefact = opened(project).artefact("teacher", "my_model")
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"format": 2}}
    artefact.storage.replace(f"{artefact.path}/zarr.json", json.dumps(document).encode())
    for image_id in ("p000", "p001"):
        group = teacher.read(image_id)
        writer = ImageWriter(image_id)
        writer.attributes |= group.attributes
        logits = np.zeros_like(group.read_array("logits"))
        logits[:, value] = 4
        writer.add_array("logits", logits)
        file = f"{image_id}.by-hand-{value}.zip"
        artefact.storage.replace(f"{artefact.path}/images/{file}", pack(writer.members()))
        artefact.storage.replace(f"{artefact.path}/done/{image_id}.json", Marker(image_id, file).to_json())
    return artefact


def test_a_repair_never_removes_artefacts_computed_from_images_alone(project: Project) -> None:
    """Logits of a foreign program: nothing computes them again."""
    foreign = write_foreign_logits(project, 3)
    for kind in ("sam", "masks"):
        flip(next(path for path in files(project)["image"] if kind in path.parts and path.name.startswith("p000")))
        assert repaired(project) == 1
        compute(project)
    assert set(finished(foreign)) == {"p000", "p001"}


def test_a_new_file_name_is_new_content(project: Project) -> None:
    """Of a program that records the file name alone, as the format allows."""
    settings = ("teacher.artefact=my_model", "fusion.rule=ta")
    for value in (3, 7):
        write_foreign_logits(project, value)
        report = fuse(project.manifest(), project.config(*settings))
        assert report.computed == 2
        assert (report.artefact.read("p000").read_array("label") == value).all()


def test_a_lost_root_group_is_written_again_though_nothing_is_computed(project: Project) -> None:
    (project.folder / "images" / "broken.png").unlink()
    whole = everything(project)
    for path in files(project)["root"]:
        flip(path)
    assert repaired(project) == 4
    compute(project)
    assert everything(project) == whole
    assert problems(project) == []


def test_a_killed_repair_leaves_the_damage_to_be_found_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in files(project)["image"] if "sam" in path.parts)
    flip(path)
    (problem,) = problems(project)
    delete, deleted = LocalStorage.delete, []

    def killed(self: LocalStorage, place: str) -> None:
        delete(self, place)
        deleted.append(place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(opened(project), problem)
    assert [place.partition("/")[0] for place in deleted] == ["fused"]
    assert len(problems(project)) == 1


def test_an_image_computed_since_the_check_is_not_removed(project: Project) -> None:
    flip(next(path for path in files(project)["image"] if "teacher" in path.parts))
    (problem,) = problems(project)
    repair(opened(project), problem)
    assert problem.marker is not None
    image = project.folder / "images" / f"{problem.marker.id}.png"
    os.utime(image, ns=(1, 1))
    compute(project)
    assert repair(opened(project), problem) == []


def test_missing_image_files_are_no_damage(project: Project) -> None:
    records, cache = project.manifest().images, opened(project)
    (project.folder / "images").rename(project.folder / "unmounted")
    unreadable = list(CacheCheck(cache, records).problems())
    assert unreadable
    assert not any(repair(cache, problem) for problem in unreadable)
    (project.folder / "unmounted").rename(project.folder / "images")
    assert problems(project) == []


def test_a_bad_sector_is_damage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {path.stat().st_ino for path in files(project)["image"] if "teacher" in path.parts}
    read = os.read

    def fail(descriptor: int, count: int) -> bytes:
        if os.fstat(descriptor).st_ino in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, count)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", fail)
        assert repaired(project) == 2
    compute(project)
    assert problems(project) == []


@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_a_folder_or_a_link_in_the_place_of_a_marker_blocks_nothing(project: Project, kind: str) -> None:
    whole = everything(project)
    path = next(path for path in files(project)["marker"] if "sam" in path.parts)
    path.unlink()
    if kind == "folder":
        path.mkdir()
        assert repaired(project) == 1
    else:
        path.symlink_to(path)
    compute(project)
    assert everything(project) == whole


@pytest.mark.parametrize("place", ["teacher", "teacher/KEY/done", "teacher/KEY/images"])
def test_a_link_inside_the_cache_is_refused_by_every_stage(project: Project, tmp_path: Path, place: str) -> None:
    (teacher,) = [a for a in opened(project).artefacts() if a.kind == "teacher"]
    path = root(project) / place.replace("KEY", teacher.key)
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    for run in (precompute, fuse):
        with pytest.raises(UserError, match=r"is a link; expected a folder"):
            run(project.manifest(), project.config(RULE))
    for arguments in (["gc", "--older-than", "0"], ["verify", "--repair"]):
        done = command(project, *arguments)
        assert "is a link; expected a folder" in done.stdout, done.stderr
    assert snapshot(tmp_path / "elsewhere") == before


def test_nothing_is_removed_while_the_markers_are_missing(project: Project) -> None:
    """An unfinished copy, or a disk that is not mounted."""
    (sam, *_) = opened(project).artefacts()
    (root(project) / sam.path / "done").rename(root(project) / sam.path / "done-later")
    assert list(opened(project).find_orphans([sam], 0)) == []


def test_a_file_referenced_during_its_removal_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is computed again has the name of its old file, which `gc` may have listed before."""
    (sam, *_) = opened(project).artefacts()
    marker = finished(sam)["p000"]
    sam.remove_marker("p000")
    (orphan,) = opened(project).find_orphans([sam], 0)
    move_to_temporary = LocalStorage.move_to_temporary

    def commit_first(self: LocalStorage, path: str) -> str:
        compute(project)
        return move_to_temporary(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "move_to_temporary", commit_first)
        assert not opened(project).remove_orphan(orphan, 0)
    assert sam.find_marker("p000") == marker
    sam.verify(marker)


def test_an_artefact_without_a_root_can_be_dropped(project: Project) -> None:
    (sam, *_) = opened(project).artefacts()
    (root(project) / sam.path / "zarr.json").unlink()
    assert command(project, "gc", "--drop", sam.path).returncode == 0
    assert not (root(project) / sam.path).exists()


def test_a_root_of_another_format_that_has_a_checksum_of_its_own_is_left_alone(project: Project) -> None:
    (sam, *_) = opened(project).artefacts()
    path = root(project) / sam.path / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"] |= {"format": 3, "checksum": "of another rule"}
    path.write_text(json.dumps(document))
    before = snapshot(root(project) / sam.path)
    assert command(project, "verify", "--repair").returncode == 0
    assert snapshot(root(project) / sam.path) == before
