"""Commits: an image is complete, or it does not exist for a reader."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Source
from pipeline.core.errors import ImageError, UserError
from tests.cache.helpers import ARRAYS, write
from tests.caches import failed, finished


def test_written_arrays_are_read(artefact: Artefact) -> None:
    write(artefact, inputs={"sam": "x"}, source=Source(1, 2, "3"))
    group = artefact.read("a")
    assert group.array_names() == sorted(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(group.read_array(name), values)
        assert group.read_array(name).dtype == values.dtype
    assert group.attributes == {"size": [8, 8]}
    assert (group.marker.source, group.marker.inputs) == (Source(1, 2, "3"), {"sam": "x"})
    assert set(finished(artefact)) == {"a"}
    artefact.verify(group.marker)


def test_an_error_while_writing_leaves_nothing(artefact: Artefact) -> None:
    def fail() -> None:
        with artefact.write("a") as writer:
            writer.add_array("x", np.ones(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert finished(artefact) == {}
    assert list(artefact.storage.entries(f"{artefact.path}/images")) == []
    with pytest.raises(ImageError, match="a: is not in teacher/k1"):
        artefact.read("a")


def test_the_same_content_twice_is_one_file(artefact: Artefact) -> None:
    write(artefact)
    first = finished(artefact)["a"]
    write(artefact)
    assert finished(artefact)["a"] == first
    assert len(list(artefact.storage.entries(f"{artefact.path}/images"))) == 1


def test_new_content_replaces_the_old_and_open_groups_stay_readable(artefact: Artefact) -> None:
    write(artefact)
    old = artefact.read("a")
    write(artefact, arrays={"zeros": np.ones((1, 2), np.uint8)})
    np.testing.assert_array_equal(artefact.read("a").read_array("zeros"), [[1, 1]])
    np.testing.assert_array_equal(old.read_array("zeros"), ARRAYS["zeros"])
    assert old.marker.content != finished(artefact)["a"].content


def test_equal_arrays_have_equal_content(artefact: Artefact) -> None:
    write(artefact, "a")
    write(artefact, "b")
    markers = finished(artefact)
    assert markers["a"].content == markers["b"].content
    assert markers["a"].file != markers["b"].file


def test_a_failure_lasts_until_the_image_is_finished(artefact: Artefact) -> None:
    artefact.record_failure("a", "file is truncated")
    assert failed(artefact) == {"a": "file is truncated"}
    write(artefact)
    assert failed(artefact) == {}
    artefact.record_failure("a", "file is gone")
    assert finished(artefact) == {}


def test_a_kill_between_marker_and_failure_leaves_no_failed_image(artefact: Artefact) -> None:
    write(artefact)
    artefact.storage.replace(f"{artefact.path}/failed/a.json", b'{"id": "a", "reason": "not computed"}')
    assert failed(artefact) == {}


def test_another_format_version_is_refused(artefact: Artefact) -> None:
    path = f"{artefact.path}/zarr.json"
    document = json.loads(artefact.storage.read(path))
    document["attributes"]["format"] = 3
    del document["attributes"]["checksum"]
    artefact.storage.replace(path, json.dumps(document).encode())
    for call in (artefact.attributes, lambda: artefact.create({}, {}), artefact.upgrade_format):
        with pytest.raises(UserError, match=r"zarr.json: attribute 'format' is 3, expected 2"):
            call()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_root_group_is_refused_and_repaired(artefact: Artefact, damage: str) -> None:
    path = f"{artefact.path}/zarr.json"
    before = artefact.attributes()
    data = artefact.storage.read(path)
    if damage == "gone":
        artefact.storage.delete(path)
    else:
        artefact.storage.replace(path, data[:40] if damage == "cut" else data.replace(b'"a": 1', b'"a": 3'))
    with pytest.raises(UserError, match="no such artefact" if damage == "gone" else "run `verify --repair`"):
        artefact.attributes()
    artefact.repair_root()
    assert artefact.attributes()["format"] == 2
    artefact.create({"a": 1}, {})
    assert artefact.attributes() == before


def test_a_missing_artefact_names_those_of_other_settings(artefact: Artefact) -> None:
    cache = Cache(artefact.storage.url.rsplit("/", 1)[0], "toy")
    cache.artefact("teacher", "k2").create({"model": {"kind": "mmseg", "views": {"width": 3}}}, {})
    expected = r"no such artefact .*; found those of other settings: k1 \(default settings\), k2 \(model.kind: mmseg, "
    with pytest.raises(UserError, match=expected + r"model.views.width: 3\)"):
        cache.artefact("teacher", "k3").attributes()
