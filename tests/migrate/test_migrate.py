"""A cache of format 1, made by the program of that time, is read, reused and converted."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Marker
from pipeline.core.errors import ImageError
from stages.fuse.stage import fuse
from stages.migrate.stage import migrate
from stages.precompute.stage import precompute
from stages.verify.check import CacheCheck, repair
from tests.caches import finished
from tests.conftest import Project

OLD = Path(__file__).parents[1] / "data" / "cache_format_1.zip"
IMAGES = {"p000", "street/first walk"}
KINDS = ("sam", "masks", "teacher", "fused")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two panoramas and their complete cache of format 1; the rule is `best`."""
    folder = tmp_path / "old"
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(folder)
    monkeypatch.chdir(folder)
    return Project(folder)


def opened(project: Project) -> Cache:
    return Cache(str(project.folder / "cache"), "toy")


def everything(project: Project) -> dict[str, Any]:
    """Returns every array, attribute and content of every finished image."""
    result: dict[str, Any] = {}
    for artefact in opened(project).artefacts():
        for image_id, marker in finished(artefact).items():
            group = artefact.read(image_id)
            place = f"{artefact.path} {image_id}"
            digest = marker.source and marker.source.sha256  # its time is that of the copy
            result[place] = (marker.content, marker.inputs, digest, group.attributes)
            result |= {f"{place} {name}": group.read_array(name).tobytes() for name in group.array_names()}
    return result


def computed(project: Project) -> dict[str, int]:
    reports = [*precompute(project.manifest(), project.config())]
    reports.append(fuse(project.manifest(), project.config("fusion.rule=best")))
    return {report.artefact.kind: report.computed for report in reports}


NOTHING = dict.fromkeys(KINDS, 0)


def test_an_old_cache_is_read_and_reused(old: Project) -> None:
    before = everything(old)
    assert len({name for name in before if len(name.split()) == 2 or name.endswith("walk")}) == 2 * len(KINDS)
    assert computed(old) == NOTHING
    assert everything(old) == before
    assert all(artefact.attributes()["format"] == 1 for artefact in opened(old).artefacts())


def test_new_images_join_an_old_cache(old: Project) -> None:
    shutil.copy(old.folder / "images" / "p000.png", old.folder / "images" / "p001.png")
    before = everything(old)
    assert computed(old) == dict.fromkeys(KINDS, 1)
    after = everything(old)
    assert {name: after[name] for name in before} == before
    for artefact in opened(old).artefacts():
        assert artefact.attributes()["format"] == 2
        formats = {image_id: marker.is_zip for image_id, marker in finished(artefact).items()}
        assert formats == {**dict.fromkeys(IMAGES, False), "p001": True}
        for name in artefact.read("p001").array_names():
            np.testing.assert_array_equal(
                artefact.read("p001").read_array(name), artefact.read("p000").read_array(name)
            )


def test_migration_changes_no_value_no_key_and_no_content(old: Project) -> None:
    before = everything(old)
    result = migrate(opened(old))
    assert (result.converted, result.skipped, result.failures) == (2 * len(KINDS), 0, {})
    assert everything(old) == before
    assert computed(old) == NOTHING
    for artefact in opened(old).artefacts():
        assert artefact.attributes()["format"] == 2
        assert all(marker.is_zip for marker in artefact.markers())
        assert not artefact.storage.folders(f"{artefact.path}/images")
        for marker in artefact.markers():
            artefact.verify(marker)
    again = migrate(opened(old))
    assert (again.converted, again.skipped) == (0, 2 * len(KINDS))


@pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after it"])
@pytest.mark.parametrize("images", [0, 1, 4])
def test_a_killed_migration_is_continued(
    old: Project, monkeypatch: pytest.MonkeyPatch, images: int, committed: bool
) -> None:
    """It ends in the middle of an image, after `images` others."""
    before = everything(old)
    commit, done = Artefact.commit, []

    def killed(self: Artefact, *arguments: Any, **more: Any) -> Marker:
        if len(done) < images:
            done.append(commit(self, *arguments, **more))
            return done[-1]
        if committed:
            commit(self, *arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Artefact, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            migrate(opened(old))
    assert everything(old) == before
    assert computed(old) == NOTHING
    assert migrate(opened(old)).converted == 2 * len(KINDS) - images - committed
    assert everything(old) == before


def files_of(project: Project) -> Iterator[Path]:
    return (path for path in sorted((project.folder / "cache").rglob("*")) if path.is_file())


def test_a_damaged_image_of_format_1_is_never_read_and_never_converted(old: Project) -> None:
    """A flipped bit in a chunk, whose size is unchanged."""
    chunk = next(path for path in files_of(old) if "teacher" in path.parts and "c" in path.parts)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    (teacher,) = [artefact for artefact in opened(old).artefacts() if artefact.kind == "teacher"]
    with pytest.raises(ImageError, match="does not have the content it was written with"):
        teacher.read("p000").read_array("logits")
    result = migrate(opened(old))
    assert result.converted == 2 * len(KINDS) - 1
    assert list(result.failures) == [f"{teacher.path} p000"]
    assert not finished(teacher)["p000"].is_zip


def test_a_lost_file_of_format_1_is_an_error(old: Project) -> None:
    chunk = next(path for path in files_of(old) if "sam" in path.parts and "c" in path.parts)
    chunk.unlink()
    (sam,) = [artefact for artefact in opened(old).artefacts() if artefact.kind == "sam"]
    with pytest.raises(ImageError, match=r"is missing, expected .* bytes"):
        sam.read("p000")


def test_a_foreign_image_without_digests_is_converted(old: Project) -> None:
    (teacher,) = [artefact for artefact in opened(old).artefacts() if artefact.kind == "teacher"]
    path = old.folder / "cache" / "toy" / teacher.path / "done" / "p000.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({"id": marker["id"], "attempt": marker["attempt"]}))
    logits, content = teacher.read("p000").read_array("logits"), finished(teacher)["p000"].content
    assert migrate(opened(old)).failures == {}
    assert (finished(teacher)["p000"].is_zip, finished(teacher)["p000"].content) == (True, content)
    np.testing.assert_array_equal(teacher.read("p000").read_array("logits"), logits)


def test_the_command_prints_its_counts(old: Project) -> None:
    import subprocess
    import sys

    repository = Path(__file__).resolve().parents[2]
    run = [sys.executable, "-m", "pipeline", "migrate", "--json", *old.arguments()]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(run, cwd=old.folder, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "stage": "migrate", "converted": 8, "skipped": 0, "failed": 0, "passed_over": 0
    }  # fmt: skip


def test_a_repair_of_format_1_removes_the_ensemble_computed_from_damage(old: Project) -> None:
    """Even where the logits that are computed again have the content of the damaged ones."""
    before = everything(old)
    teacher, fused = (next(a for a in opened(old).artefacts() if a.kind == kind) for kind in ("teacher", "fused"))
    chunk = next(path for path in files_of(old) if "teacher" in path.parts and "c" in path.parts)
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    (problem,) = CacheCheck(opened(old), old.manifest().images).problems()
    assert repair(opened(old), problem) == [teacher.path, fused.path]
    assert set(finished(fused)) == {"street/first walk"}
    assert computed(old) == {**NOTHING, "teacher": 1, "fused": 1}
    after = everything(old)
    arrays = {name for name in before if not name.endswith(("p000", "first walk"))}
    assert {name: after[name] for name in arrays} == {name: before[name] for name in arrays}


def test_an_object_store_is_migrated_too(old: Project) -> None:
    before = everything(old)
    cache = Cache(f"memory://{old.folder.parent.name}", "toy")
    for path in files_of(old):
        cache.storage.replace(path.relative_to(old.folder / "cache" / "toy").as_posix(), path.read_bytes())
    assert migrate(cache).converted == 2 * len(KINDS)
    for artefact in cache.artefacts():
        assert not artefact.storage.folders(f"{artefact.path}/images")
        for image_id, marker in finished(artefact).items():
            assert marker.is_zip
            for name in artefact.read(image_id).array_names():
                values = artefact.read(image_id).read_array(name)
                assert values.tobytes() == before[f"{artefact.path} {image_id} {name}"]
