"""Random contents of the cache's files: markers, records, root groups, and the groups of images.

Digests fit the changed content, as in a forged cache: the reader is protected by the checks of the content alone.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pipeline.cache import Artefact, Cache, ImageWriter, Marker, Source
from pipeline.cache.freshness import upstream_markers
from pipeline.cache.groups import read_mask_sets, views_from_attributes
from pipeline.cache.marker import dump_with_checksum
from pipeline.cache.zip_file import pack
from pipeline.data.labels import load_label_space
from stages.fuse.tasks import read_logits
from stages.verify.check import CacheCheck, repair
from tests.fuzz.guard import Inputs
from tests.fuzz.inputs import changed, changed_bytes
from tests.fuzz.tiers import tiers

SPACE = load_label_space("cityscapes19")
ATTRIBUTES = {
    "image_size": [16, 64],
    "views": [[0, 0, 16, 32], [0, 32, 16, 32], {"column": 0, "pitch": 0.0, "fov": 90.0, "height": 16, "width": 16}],
    "output_stride": 4,
    "columns": ["view", "plane", "predicted_iou"],
}


@cache
def members() -> dict[str, bytes]:
    """Returns an image with the arrays of `sam` and of `teacher`."""
    writer = ImageWriter("a", Source(1, 2, "3"))
    writer.attributes |= ATTRIBUTES
    planes = np.zeros((2, 16, 32), np.uint16)
    planes[0, 2:9, 3:9] = 1
    writer.add_array("planes", planes, chunks=(1, 16, 32))
    writer.add_array("plane_view", np.array([0, 1], np.uint16))
    writer.add_array("table", np.array([[0, 0, 0.9]]))
    writer.add_array("logits", np.zeros((3, 19, 4, 8), np.float16), chunks=(1, 19, 4, 8))
    return writer.members()


def artefact_in(folder: Path) -> Artefact:
    """An artefact with one whole image, `a`; nothing of an earlier input is left."""
    artefact = Cache(str(folder / "cache"), "toy").artefact("teacher", "k")
    artefact.storage.delete("teacher")
    artefact.create({"a": 1}, {})
    artefact.commit(members(), "a", Source(1, 2, "3"), {"sam": "0"}, "0123456789abcdef")
    return artefact


def read_everything(artefact: Artefact) -> None:
    """Reads everything of an artefact that the stages read; an error in one part does not block the others."""
    cache = Cache(artefact.storage.url.rpartition("/")[0], "toy")
    readable, _ = cache.readable_artefacts()
    cache.artefact("teacher", "k").find_marker("a")
    list(artefact.failures())
    artefact.failure_reason("a")
    for listed in readable:
        cache.summarise(listed)
    list(cache.find_orphans(readable, 0))
    for problem in list(CacheCheck(cache, []).problems()):
        repair(cache, problem)


def read_image(artefact: Artefact) -> None:
    marker = upstream_markers("a", {"teacher": artefact})["teacher"]
    group = artefact.read_group(marker)
    views, _ = views_from_attributes(group)
    for name in group.array_names():
        group.read_array(name)
    read_mask_sets(group, [(view.height, view.width) for view in views])
    read_logits(group, SPACE)


MARKER_2: dict[str, Any] = {
    "id": "a", "file": "a.0123456789abcdef.zip", "size": 100, "sha256": "0" * 64, "content": "0" * 16,
    "source": {"size": 1, "mtime_ns": 2, "sha256": "3"}, "inputs": {"sam": "0"}, "arrays": {"": 9, "logits": 90},
}  # fmt: skip
MARKER_1: dict[str, Any] = {
    "id": "a", "attempt": "20250131T120000-0f9c2a7be113", "source": {"size": 1, "mtime_ns": 2, "sha256": "3"},
    "inputs": {"sam": "0"}, "files": {"zarr.json": [301, "0" * 64], "logits/c/0/0/0/0": [12, "1" * 64]},
}  # fmt: skip


def as_bytes(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()


def with_checksum(value: Any) -> bytes:
    return dump_with_checksum(value) if isinstance(value, dict) else as_bytes(value)


MARKERS = st.one_of(
    changed(MARKER_2).map(with_checksum),
    changed(MARKER_1).map(as_bytes),
    changed_bytes(as_bytes(MARKER_2)),
    changed_bytes(dump_with_checksum(MARKER_2)),
    st.just(b"[" * 200_000),
    st.just(b'{"id": ' + b"9" * 6000 + b"}"),
)


@tiers(MARKERS, 60, 5_000)
def test_markers(data: bytes, folder: Path, inputs: Inputs) -> None:
    artefact = artefact_in(folder)
    artefact.storage.replace(f"{artefact.path}/done/a.json", data)
    artefact.storage.replace(f"{artefact.path}/done/b.json", data)
    inputs.run(lambda: read_image(artefact))
    inputs.run(lambda: read_everything(artefact))


@tiers(
    st.one_of(changed({"id": "a", "reason": "x"}).map(with_checksum), changed_bytes(b'{"id": "a", "reason": 1}')),
    30,
    1_000,
)
def test_records_of_failures(data: bytes, folder: Path, inputs: Inputs) -> None:
    artefact = artefact_in(folder)
    artefact.storage.replace(f"{artefact.path}/failed/a.json", data)
    inputs.run(lambda: read_everything(artefact))


ROOT: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "group",
    "attributes": {"format": 2, "kind": "teacher", "key": "k", "upstream": {"sam": "x"}, "classes": ["a"]},
}


#: Root groups that once raised other errors, or sentences that were too long.
BAD_ROOTS = (
    b'{"zarr_format": 3, "node_type": "group", "attributes": {"": Infinity}}',
    as_bytes({**ROOT, "attributes": "a" * 5_000}),
    as_bytes({**ROOT, "attributes": {**ROOT["attributes"], "format": "a" * 5_000}}),
    as_bytes({**ROOT, "attributes": {**ROOT["attributes"], "kind": "a" * 5_000}}),
)


@tiers(st.one_of(changed(ROOT).map(as_bytes), changed_bytes(as_bytes(ROOT))), 30, 1_000, BAD_ROOTS)
def test_root_groups(data: bytes, folder: Path, inputs: Inputs) -> None:
    artefact = artefact_in(folder)
    artefact.storage.replace(f"{artefact.path}/zarr.json", data)
    inputs.run(artefact.attributes)
    inputs.run(lambda: artefact.create({"a": 1}, {}))
    artefact.storage.replace(f"{artefact.path}/zarr.json", data)
    inputs.run(lambda: read_everything(artefact))


def put(artefact: Artefact, changes: dict[str, bytes]) -> None:
    """Writes the image `a` with other members, and a marker that fits them."""
    artefact.commit({**members(), **changes}, "a", Source(1, 2, "3"), {}, "0123456789abcdef")


@st.composite
def changed_metadata(draw: st.DrawFn) -> dict[str, bytes]:
    """Draws metadata of the group or of an array."""
    name = draw(st.sampled_from(sorted(name for name in members() if name.endswith("zarr.json"))))
    document = json.loads(members()[name])
    return {name: draw(st.one_of(changed(document).map(as_bytes), changed_bytes(members()[name])))}


def long_stride() -> dict[str, bytes]:
    """Returns metadata of the group with a text in place of the output stride."""
    document = json.loads(members()["zarr.json"])
    document["attributes"]["output_stride"] = "a" * 5_000
    return {"zarr.json": as_bytes(document)}


@tiers(st.deferred(changed_metadata), 100, 5_000, [long_stride()])
def test_metadata_of_images(changes: dict[str, bytes], folder: Path, inputs: Inputs) -> None:
    artefact = artefact_in(folder)
    put(artefact, changes)
    inputs.run(lambda: read_image(artefact))
    inputs.run(lambda: read_everything(artefact))


@st.composite
def changed_chunks(draw: st.DrawFn) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(name for name in members() if "/c/" in name)))
    return {name: draw(changed_bytes(members()[name]))}


@tiers(st.deferred(changed_chunks), 60, 5_000)
def test_chunks(changes: dict[str, bytes], folder: Path, inputs: Inputs) -> None:
    artefact = artefact_in(folder)
    put(artefact, changes)
    inputs.run(lambda: read_image(artefact))


@tiers(st.deferred(lambda: changed_bytes(pack(members()))), 60, 5_000)
def test_zip_files(data: bytes, folder: Path, inputs: Inputs) -> None:
    """Checked by the checksums of the zip file itself, and with a digest that fits the damaged file."""
    artefact = artefact_in(folder)
    artefact.storage.replace(f"{artefact.path}/images/a.x.zip", data)
    fitting = {"size": len(data), "sha256": sha256(data).hexdigest()}
    for marker in (Marker("a", "a.x.zip"), Marker("a", "a.x.zip", **fitting)):
        artefact.storage.replace(f"{artefact.path}/done/a.json", marker.to_json())
        inputs.run(lambda: read_image(artefact))
