"""Names of images in the cache, and damaged markers and failure records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import Artefact, Source
from pipeline.cache.marker import encode_id
from pipeline.core.errors import ImageError
from tests.cache.helpers import write
from tests.caches import finished


@given(st.text(min_size=1, max_size=200).filter(lambda s: s.isprintable()))
def test_any_id_becomes_one_safe_file_name(image_id: str) -> None:
    name = encode_id(image_id)
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert unquote(name) == image_id or "~" in name


def test_ids_never_clash() -> None:
    ids = ["a/b", "a%2Fb", "a~b", "a b", "Ä", "..", ".a", "x" * 300, "x" * 299 + "y", "ä" * 200]
    assert len({encode_id(i) for i in ids}) == len(ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "holds a list, expected a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "a"}', "expected a JSON object with 'id' and 'file'"),
        ('{"id": "a", "file": "../../x.zip"}', "file is '../../x.zip', expected a.<letters"),
        ('{"id": "a", "file": "a.../x.zip"}', "file is .*, expected a.<letters"),
        ('{"id": "a", "file": "b.x.zip"}', "file is 'b.x.zip', expected a.<letters"),
        ('{"id": "a", "file": "a.x.zip", "size": "1"}', "size is '1'"),
        ('{"id": "a", "attempt": "../../x"}', "attempt is '../../x', expected letters"),
        ('{"id": "a", "attempt": "t", "files": ["x"]}', "files is .*, expected a JSON object"),
        ('{"id": "a", "attempt": "t", "files": {"x": 3}}', "files: "),
        ('{"id": "a", "attempt": "t", "files": {"../x": [3, "0"]}}', "files names a file outside"),
        ('{"id": "a", "file": "a.t.zip", "inputs": [1]}', "inputs is .*, expected a JSON object"),
        ('{"id": "a", "file": "a.t.zip", "source": {"size": 1}}', "source is .*, expected size, mtime_ns and sha256"),
        ('{"id": "a", "file": "a.t.zip", "checksum": "0"}', "does not have the checksum"),
        ('{"id": "street/a", "attempt": "t"}', r"is of image 'street/a', expected in street%2Fa\.json"),
    ],
)
def test_a_damaged_or_misnamed_marker_is_reported_and_ignored(
    local_artefact: Artefact, text: str, message: str
) -> None:
    write(local_artefact, "b")
    local_artefact.storage.replace(f"{local_artefact.path}/done/a.json", text.encode())
    reports: list[tuple[str, str]] = []
    assert [marker.id for marker in local_artefact.markers(lambda *report: reports.append(report))] == ["b"]
    ((path, reason),) = reports
    assert path == f"{local_artefact.path}/done/a.json"
    assert re.search(message, reason), reason
    assert local_artefact.find_marker("a") is None
    with pytest.raises(ImageError, match="a: is not in"):
        local_artefact.read("a")
    write(local_artefact)
    local_artefact.verify(finished(local_artefact)["a"])


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', '{"id": "b", "reason": "x"}'])
def test_a_damaged_failure_is_reported_and_ignored(local_artefact: Artefact, text: str) -> None:
    local_artefact.storage.replace(f"{local_artefact.path}/failed/a.json", text.encode())
    reports: list[tuple[str, str]] = []
    assert list(local_artefact.failures(lambda *report: reports.append(report))) == []
    assert [path for path, _ in reports] == [f"{local_artefact.path}/failed/a.json"]
    assert "damaged" in (local_artefact.failure_reason("a") or "")


@pytest.mark.parametrize("name", ["._a.json", "a (copy).json", "b.json.bak"])
def test_a_stray_file_beside_the_markers_changes_nothing(local_artefact: Artefact, name: str) -> None:
    write(local_artefact)
    marker = local_artefact.storage.read(f"{local_artefact.path}/done/a.json")
    local_artefact.storage.replace(f"{local_artefact.path}/done/{name}", marker)
    assert set(finished(local_artefact)) == {"a"}
    local_artefact.read("a").read_array("zeros")


def test_a_marker_is_plain_json(local_artefact: Artefact) -> None:
    write(local_artefact, "straße 1", source=Source(1, 2, "3"), inputs={"sam": "c"})
    folder = Path(local_artefact.storage.url) / local_artefact.path
    document = json.loads((folder / "done" / "stra%C3%9Fe 1.json").read_text(encoding="utf-8"))
    assert list(document) == [
        "id", "file", "size", "sha256", "content", "source", "inputs", "arrays", "checksum"
    ]  # fmt: skip
    assert document["id"] == "straße 1"
    assert document["source"] == {"size": 1, "mtime_ns": 2, "sha256": "3"}
    assert document["size"] == local_artefact.storage.size(f"{local_artefact.path}/images/{document['file']}")
    assert len(document["sha256"]) == 64
    assert set(document["arrays"]) == {"", "zeros", "logits", "none"}
