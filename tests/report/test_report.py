"""The page as a file: what is on it, what is escaped, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.core.errors import UserError
from pipeline.data.results import load_results, save_results
from stages.commands import make_app, stage_function
from stages.report.cached import Stages, configs_in_cache, table_of_cache
from stages.report.sources import table_of
from stages.report.stage import report
from tests.conftest import Project
from tests.report.conftest import INJECTIONS, Measured


class Page(HTMLParser):
    """The elements of a page, as a browser would find them, without its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self._json: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        is_json = tag == "script" and attributes.get("type") == "application/json"
        self._json = attributes.get("id") or attributes.get("class") if is_json else None

    def handle_data(self, data: str) -> None:
        if self._json:
            self.data.setdefault(self._json, []).append(json.loads(data))
            self._json = None


def write(measured: Measured, out: Path, **options: Any) -> Page:
    report([table_of(measured.results, load_results(measured.results))], out, **options)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_has_every_row_and_panorama(measured: Measured, tmp_path: Path) -> None:
    page = write(measured, tmp_path / "a" / "index.html", against="rule paper")
    (data,) = page.data["data"]
    assert data["against"] == "rule paper"
    paper, best, student = data["tables"][0]["rows"]
    assert (paper["mean"]["mIoU"], best["mean"]["mIoU"], student["mean"]["mIoU"]) == (40.5, 45.5, 30.0)
    assert best["settings"]["fusion.rule.kind"] == "best"
    ids = {panorama["id"] for panorama in page.data["panorama"]}
    assert ids == {f"images/{name}" for name in INJECTIONS}
    layers = [layer["title"] for layer in page.data["panorama"][0]["layers"]]
    assert layers[:5] == ["masks", "boundary", "TA", "ensemble", "rule paper"]
    assert layers[-2:] == ["truth", "error"]


def test_names_cannot_inject_elements(measured: Measured, tmp_path: Path) -> None:
    page = write(measured, tmp_path / "index.html")
    allowed = {"img": {"alt", "decoding", "src"}, "svg": {"viewbox", "role", "aria-label"}}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert set(attributes) <= allowed.get(tag, set(attributes)), (tag, attributes)
    # the viewer, the page's own script, the tables, and one for each panorama
    assert [tag for tag, _ in page.tags].count("script") == 2 + 1 + 4
    assert "49" not in [value for _, attributes in page.tags for value in attributes.values()]


def test_the_page_loads_nothing(measured: Measured, tmp_path: Path) -> None:
    page = write(measured, tmp_path / "index.html")
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/", "#")), (tag, name, value[:80])
    (policy,) = [a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert re.findall(r"script-src ([^;]*)", policy)[0].count("sha256-") == 2


def test_a_page_without_pictures_if_the_data_set_is_gone(measured: Measured, tmp_path: Path) -> None:
    moved = tmp_path / "results.json"
    shutil.copy(measured.results, moved)
    figures = report([table_of(moved, load_results(moved))], tmp_path / "index.html")
    assert figures["panoramas"] == 0
    assert re.search(r"No pictures of .*manifest\.yaml: no such file", figures["notes"][0])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(page.data["data"][0]["tables"][0]["rows"]) == 3
    assert "panorama" not in page.data


def test_a_file_without_rows_is_a_page(measured: Measured, tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    save_results(empty, load_results(measured.results).model_copy(update={"rows": ()}))
    figures = report([table_of(empty, load_results(empty))], tmp_path / "index.html")
    assert figures["rows"] == 0
    assert "The file has no finished row." in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_an_image_that_cannot_be_read_is_reported_and_the_others_are_drawn(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=("teacher",))
    fuse(manifest, config)
    stages = Stages(stage_function("evaluate"), stage_function("ablate", "compute_signals"))
    table = table_of_cache(manifest, config, stages, None, progress=_silent())
    path = manifest.images[0].path
    stat = path.stat()
    path.write_bytes(b"\x89PNG damaged".ljust(stat.st_size, b"x"))
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # so that the ensemble counts as up to date
    figures = report([table], tmp_path / "index.html", manifest=manifest)
    assert figures["panoramas"] == 2
    assert list(figures["failures"]) == ["p000"]


def _silent() -> Any:
    from pipeline.core.progress import SilentProgress

    return SilentProgress()


def test_the_rows_of_a_cache(measured: Measured) -> None:
    project = measured.project
    manifest, config = project.manifest(), project.config()
    stages = Stages(stage_function("evaluate"), stage_function("ablate", "compute_signals"))
    table = table_of_cache(manifest, config, stages, project.config_path, progress=_silent())
    rows = {row.name: row for row in table.results.rows}
    assert list(rows) == ["TA, stitched", "best", "paper"]
    assert {"mIoU", "expected_mIoU", "accuracy", "l_cc", "weight"} <= set(rows["best"].figures)
    assert rows["best"].keys["fused"] == table.configs["best"].artefacts(manifest.preprocessing).key("fused")
    assert rows["best"].panoramas[f"images/{INJECTIONS[0]}"]["weight"] > 0
    assert "--fusion best" in rows["best"].command


def test_ensembles_of_fewer_panoramas_are_left_out(project: Project) -> None:
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=("teacher",))
    fuse(manifest, config)
    fuse(manifest, other := project.config("fusion.rule=ta", "fusion.pooling.mode=log"))
    names = ["ta", "ta, pooling.mode log"]
    assert list(configs_in_cache(manifest, config)) == names
    other.artefact(manifest, "fused").remove_marker("p000")
    assert list(configs_in_cache(manifest, other)) == names[:1]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), ["report", *map(str, arguments)])
    return result.exit_code, str(result.exception) if isinstance(result.exception, UserError) else result.output


def test_the_command(measured: Measured, tmp_path: Path) -> None:
    status, printed = run(measured.results, "--images", 2, "--out", tmp_path / "index.html", "--json")
    assert status == 0
    figures = json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])
    assert (figures["rows"], figures["panoramas"], figures["failed"]) == (3, 2, 0)
    assert figures["bytes"] == (tmp_path / "index.html").stat().st_size


def test_the_command_without_results(measured: Measured, tmp_path: Path) -> None:
    status, printed = run(*measured.project.arguments(), "--images", 1, "--out", tmp_path / "index.html")
    assert status == 0, printed
    assert "1 panoramas" in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "found neither a results file nor --manifest"),
        (["missing.json"], "missing.json: no such file"),
        (["RESULTS", "--against", "rule bets"], "--against rule bets: found no such row; expected one of rule paper;"),
        (["RESULTS", "--out", "page.pdf"], "page.pdf: expected a file that ends in .html"),
        (["RESULTS", "--manifest", "nowhere.yaml"], "--manifest: found 'nowhere.yaml'"),
    ],
)
def test_what_is_refused(measured: Measured, arguments: list[str], problem: str) -> None:
    replaced = [str(measured.results) if word == "RESULTS" else word for word in arguments]
    status, message = run(*replaced)
    assert status != 0
    assert problem in message
