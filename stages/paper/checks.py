"""Checks of the data and the weights that the paper's tables need."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.hashing import content_digest
from pipeline.core.project_files import find_project_file
from pipeline.data.manifests import load_manifest

#: Published numbers of panoramas by split.
PANORAMAS = {"train": 2000, "val": 100}

#: Beginning of the SHA-256 of the published files, see docs/models.md.
SAM_DIGEST = "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
TA_DIGEST = "87a052ec"


def check_data(folder: Path) -> list[list[str]]:
    """Returns a row for each split of DensePASS: its panoramas and labels in `folder`, and the published numbers.

    The environment variable `DENSEPASS` names the folder. Raises `UserError` if a split is empty or has no labels.
    """
    if not folder.expanduser().is_dir():
        raise UserError(f"--densepass {folder}: no such folder; expected DensePASS as docs/models.md describes it")
    data = load_manifest(find_project_file("data_manifests", "densepass", "paper"))
    rows = []
    for split, published in PANORAMAS.items():
        records = data.select((split,))
        labels = sum(record.label_path is not None for record in records)
        if split == "val" and labels < len(records):
            raise UserError(f"--densepass {folder}: {len(records) - labels} panoramas of val have no labels")
        counts = f"{len(records)} panoramas" + (f", {labels} labels" if labels else "")
        rows.append([f"DensePASS {split}", counts, str(published)])
    return rows


def check_weights(sam: Path, ta: Path) -> list[list[str]]:
    """Returns a row for each checkpoint: the beginning of its SHA-256, and whether it is that of the published file.

    Other files may be used. Raises `UserError` if one is missing.
    """
    rows = []
    for title, option, path, published in (
        ("SAM ViT-H", "--sam", sam, SAM_DIGEST),
        ("SegFormer-B5", "--ta", ta, TA_DIGEST),
    ):
        if not path.expanduser().is_file():
            raise UserError(f"{option} {path}: no such file; docs/models.md says where it comes from")
        digest = content_digest(path.expanduser())
        same = "the published file" if digest.startswith(published) else "another file"
        rows.append([title, f"{digest[:12]}, {same}", published[:12]])
    return rows
