"""Fills the page's template. Everything that comes from files is escaped; nothing is loaded from a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from pipeline.cache.cache import ArtefactSummary
from pipeline.core.progress import mebibytes
from pipeline.data.labels import LabelSpace
from stages.report.content import Content, Gallery
from stages.report.layers import Panorama
from stages.report.palette import safe_palette
from stages.report.sources import Table, describe_settings
from stages.report.tables import (
    Figure,
    TableRow,
    best_values,
    classes_of,
    columns_of,
    flatten,
    format_setting,
    seconds_text,
)

TEMPLATES = Path(__file__).parent / "templates"
VIEWER = Path(__file__).parent / "vendor" / "pannellum"


def render(content: Content) -> str:
    """Returns the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in the order of the data
    environment.filters |= {"setting": format_setting, "seconds": seconds_text, "mebibytes": mebibytes}
    scripts = [_read(TEMPLATES / "report.js")]
    styles = [_read(TEMPLATES / "report.css")]
    if content.galleries:
        scripts.insert(0, _read(VIEWER / "pannellum.js"))
        styles.insert(0, _read(VIEWER / "pannellum.css"))
    tables = [_table(number, table) for number, table in enumerate(content.tables)]
    return environment.get_template("report.html").render(
        title=", ".join(dict.fromkeys(table.results.title for table in content.tables)),
        version=version("goodsam-offline"),
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(style) for style in styles],
        tables=tables,
        galleries=[_gallery(gallery) for gallery in content.galleries],
        charts=content.charts,
        trainings=content.trainings,
        caches={
            url: [_artefact(summary, content.tables) for summary in summaries]
            for url, summaries in content.caches.items()
        },
        notes=content.notes,
        data={
            "against": content.against,
            "tables": [table["data"] for table in tables],
            "spaces": {s.name: _space(s) for gallery in content.galleries for s in gallery.spaces.values()},
        },
    )


def _read(path: Path) -> str:
    """Returns a script or a style sheet; none of them may end its element."""
    text = path.read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, path  # noqa: PT018 (our own files)
    return text


def _policy(scripts: Sequence[str]) -> str:
    """Returns a content security policy: these scripts and no other, and nothing from a network."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sources}; base-uri 'none'"


def _table(number: int, table: Table) -> dict[str, Any]:
    rows, results = table.rows, table.results
    figures, classes = columns_of(results), classes_of(rows)
    best = best_values(rows, figures)
    shown = [_row(f"t{number}r{k}", row, table, figures, best) for k, row in enumerate(rows)]
    return {
        "id": f"t{number}",
        "title": results.title,
        "description": results.description,
        "manifest": results.manifest,
        "file": "" if table.file is None else str(table.file),
        "splits": ", ".join(results.splits) or "all splits",
        "columns": results.columns or ("row",),
        "labelled": [figure for figure in figures if figure.labels],
        "unlabelled": [figure for figure in figures if not figure.labels],
        "figures": [*(f for f in figures if f.labels), *(f for f in figures if not f.labels)],
        "rows": shown,
        "literature": [row.model_dump() for row in results.literature],
        "classes": classes,
        "data": {
            "figures": [asdict(figure) for figure in figures],
            "classes": classes,
            "rows": [row["data"] for row in shown],
        },
    }


def _row(row_id: str, row: TableRow, table: Table, figures: Sequence[Figure], best: dict[str, float]) -> dict[str, Any]:
    first, settings = row.first, table.settings.get(row.name)
    varied = {name: format_setting(value) for name, value in first.settings.items()}
    yaml_text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else ""
    return {
        "id": row_id,
        "name": row.name,
        "kind": first.kind,
        "settings": describe_settings(first, table.results.columns) if table.results.columns else [row.name],
        "mean": row.mean,
        "spread": row.spread,
        "best": [figure.name for figure in figures if row.mean.get(figure.name) == best.get(figure.name, object())],
        "iou": row.iou,
        "images": max((int(one.figures.get("images", 0)) for one in row.rows), default=0),
        "seeds": [one.seed for one in row.rows if one.seed is not None],
        "runs": [one.model_dump(exclude={"panoramas"}) for one in row.rows],
        "failed": sum(one.failed for one in row.rows),
        "seconds": first.seconds,
        "yaml": yaml_text,
        "data": {
            "id": row_id,
            "name": row.name,
            "title": f"{table.results.title}: {row.name}",
            "mean": row.mean,
            "spread": row.spread,
            "iou": row.iou,
            "settings": flatten(settings) if settings else {name: json.dumps(v) for name, v in varied.items()},
        },
    }


def _gallery(gallery: Gallery) -> dict[str, Any]:
    titles = {layer.id: layer.title for panorama in gallery.panoramas.values() for layer in panorama.layers}
    groups = [
        {"title": title, "panoramas": [_thumbnail(gallery, i) for i in ids if i in gallery.panoramas]}
        for title, ids in gallery.choice.groups.items()
    ]
    return {
        "title": gallery.source.manifest.name,
        "reason": gallery.choice.reason,
        "ensemble": gallery.source.title,
        "licence": gallery.source.manifest.settings.licence,
        "groups": [group for group in groups if group["panoramas"]],
        "layers": titles,
        "panoramas": [_panorama(panorama) for panorama in gallery.panoramas.values()],
    }


def _panorama(panorama: Panorama) -> dict[str, Any]:
    """Returns what the page's script reads; the photo is an element of the page."""
    return {name: value for name, value in asdict(panorama).items() if name not in ("photo", "figures")}


def _thumbnail(gallery: Gallery, image_id: str) -> dict[str, Any]:
    panorama = gallery.panoramas[image_id]
    texts = {"mIoU": "mIoU {:.1f}", "expected_mIoU": "expected {:.1f}", "weight": "M {:.1f} %", "l_cc": "L_CC {:.3f}"}
    figures = [text.format(panorama.figures[name]) for name, text in texts.items() if name in panorama.figures]
    return {
        "id": image_id,
        "name": image_id.rpartition("/")[2],
        "figures": figures[:2],
        "index": list(gallery.panoramas).index(image_id),
        "photo": panorama.photo,
    }


def _space(space: LabelSpace) -> dict[str, Any]:
    return {"classes": space.classes, "palette": space.palette, "safe": safe_palette(space.palette)}


def _artefact(summary: ArtefactSummary, tables: Sequence[Table]) -> dict[str, Any]:
    artefact = summary.artefact
    rows = [row for table in tables for row in table.results.rows]
    used = [row.name for row in rows if row.keys.get(artefact.kind) == artefact.key]
    sizes = {name: size / max(1, summary.images) for name, size in summary.bytes_by_array.items()}
    settings = artefact.attributes().get("settings")
    return {
        "path": artefact.path,
        "images": summary.images,
        "failed": summary.failed,
        "size": summary.bytes_per_image,
        "total": sum(summary.bytes_by_array.values()),
        "arrays": sizes,
        "used": list(dict.fromkeys(used)),
        "yaml": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "",
    }
