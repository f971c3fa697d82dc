"""How often labels change at the edges of windows, against elsewhere, by fusion rule; on real panoramas.

The panoramas and the TA are those of `../shared/real`; without them, panoramas and the TA of the demo run. The
masks are those of felzenszwalb in windows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from demo.splits import WorldSettings
from demo.world import write_world
from pipeline.core.cli import print_table
from pipeline.core.progress import console_progress
from pipeline.core.project_files import PROJECT_ROOT
from pipeline.data.manifests import Manifest, load_manifest
from pipeline.geometry.views import make_views
from pipeline.geometry.windows import Window
from stages.config import load_config

REAL = PROJECT_ROOT.parent / "shared" / "real"
CHECKPOINT = REAL / "teacher" / "cgnet_cityscapes_19.pth"

#: Rows: title, rule, further settings.
RULES = ("best", "ssa", "sepl", "sgml", "goodsampp")
CASES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    *((rule, rule, ()) for rule in ("ta", *RULES, "paper")),
    *((f"{rule}, cuts removed", rule, ("masks.merge.remove_cuts=true",)) for rule in RULES),
    ("paper, likelier window", "{kind: paper, composition: likelier}", ()),
)


def change_shares(labels: np.ndarray, columns: Sequence[int]) -> tuple[float, float]:
    """Returns the percentage of rows whose label changes from the column before to one of `columns`, and elsewhere.

    `labels` `(H, W)` are cyclic in x.
    """
    changes = 100 * (labels != np.roll(labels, 1, axis=1)).mean(axis=0)
    at_edge = np.zeros(labels.shape[1], dtype=bool)
    at_edge[list(columns)] = True
    return float(changes[at_edge].mean()), float(changes[~at_edge].mean())


def borders(windows: Sequence[Window], width: int) -> tuple[list[int], list[int]]:
    """Returns the columns at which windows begin or end, and those in the middle between two windows' middles."""
    edges = sorted({x % width for window in windows for x in (window.x0, window.x0 + window.width)})
    middles = sorted(window.x0 + window.width // 2 for window in windows)
    between = [(a + (b - a) // 2) % width for a, b in zip(middles, [*middles[1:], middles[0] + width], strict=True)]
    return edges, sorted(between)


def run(work: Path | None = None, cases: Sequence[tuple[str, str, tuple[str, ...]]] = CASES) -> dict[str, Any]:
    """Prints the table; returns the ratio of each case, and the largest of those with a setting against cuts."""
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        manifest, model = _data(folder)
        rows, ratios = [], {}
        for title, rule, changes in cases:
            settings = [
                f"cache={folder}/cache",
                "device=cpu",
                f"teacher.model={model}",
                f"fusion.rule={rule}",
                *changes,
            ]
            config = load_config(PROJECT_ROOT / "configs" / "no_sam.yaml", settings)
            with console_progress() as progress:
                precompute(manifest, config, progress=progress)
                fuse(manifest, config, progress=progress)
            artefact = config.artefact(manifest, "fused")
            labels = [artefact.read(record.id).read_array("label", ndim=2) for record in manifest.images]
            windows = [view for view in make_views(config.sam.views, *labels[0].shape) if isinstance(view, Window)]
            found = []
            for columns in borders(windows, labels[0].shape[1]):
                at_edge, elsewhere = np.mean([change_shares(label, columns) for label in labels], axis=0)
                found.append((at_edge / elsewhere, at_edge, elsewhere))
            # only the per-window rule puts windows together between their middles
            ratios[title] = max(ratio for ratio, _, _ in (found if config.fusion.rule.kind == "paper" else found[:1]))
            rows.append([title, found[0][1], found[1][1], found[0][2], ratios[title]])
    print_table(
        f"rows whose label changes, percent; {len(labels)} {'real' if CHECKPOINT.is_file() else 'drawn'} panoramas",
        ["rule", "at the edges of windows", "between their middles", "elsewhere", "worst ratio"],
        rows,
    )
    key = {title: title.replace(",", "").replace(" ", "_") for title in ratios}
    mended = [ratio for title, ratio in ratios.items() if "," in title]
    return {
        "real": CHECKPOINT.is_file(),
        **{f"edge_ratio_{key[title]}": round(ratio, 2) for title, ratio in ratios.items()},
        "window_edge_ratio": round(max(mended or ratios.values()), 2),
    }


def _data(folder: Path) -> tuple[Manifest, str]:
    """Returns the panoramas and the settings of the TA."""
    data: dict[str, Any] = {"name": "edges", "projection": "erp", "label_space": "cityscapes19"}
    if CHECKPOINT.is_file():
        data |= {"root": str(REAL / "panoramas"), "splits": {"all": {"images": ["*.jpeg"]}}}
        data["preprocessing"] = {"crop_rows": [312, 712], "size": [400, 2048]}
        model = f"{{kind: mmseg, config: cgnet_cityscapes, checkpoint: {CHECKPOINT}}}"
    else:
        write_world(folder / "world", WorldSettings(), {"target-tune": 4})
        data |= {"root": str(folder / "world" / "images"), "splits": {"all": {"images": ["target-tune/*.png"]}}}
        weights = PROJECT_ROOT / "demo" / "weights" / "ta_resnet_fpn.safetensors"
        model = f"{{kind: mmseg, config: demo_resnet_fpn, checkpoint: {weights}}}"
    path = folder / "edges.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_manifest(path), model
