"""Sensitivity of the pseudo-labels to the settings of the rules and to width and stride of the windows.

The paper varies the windows in its Table 4 [P]. The sizes here are for half size [O]: double them for 400 x 2048. The
panoramas, the masks (felzenszwalb) and the cache are those of one world of `pseudo_labels`; `sensitivity.json` stores
finished rows. Fewer images: `python -m benchmarks.sensitivity --images 4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import run_alone
from benchmarks.pseudo_labels import IMAGES, WORK, World
from demo.domain import Shift
from demo.splits import Split
from pipeline.core.cli import print_table
from pipeline.core.errors import UserError
from pipeline.core.progress import console_progress
from stages.ablate.grid import Combination
from stages.ablate.stage import Measuring, Row
from stages.ablate.store import Store
from stages.ablate.tables import TITLES, ensemble_table

#: Rules and values of the varied setting; the other settings have their defaults, which are among the values.
RULES: dict[str, tuple[str, Sequence[float]]] = {
    "paper: theta": ("paper", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "best: theta": ("best", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "best: strength": ("best", (0.25, 0.45, 0.65, 0.8, 1.0)),
    "best: floor": ("best", (0.001, 0.01, 0.05, 0.1)),
    "best: protected_confidence": ("best", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "sepl: share": ("sepl", (0.3, 0.5, 0.7, 0.9)),
}

#: Width and stride of the windows of SAM and the TA, in pixels of 200 x 1024.
WINDOWS = (
    (128, 32), (128, 64), (128, 128), (256, 64), (256, 128), (256, 192), (256, 256), (512, 128), (512, 256), (512, 512),
)  # fmt: skip

#: Rules that run with all windows.
WINDOW_RULES = ("ta", "paper", "best")


def run() -> dict[str, Any]:
    """Prints both tables of `target-test` and returns the figures."""
    return compare()


def compare(
    images: int = IMAGES,
    split: Split = "target-test",
    shift: Shift = "mild",
    teacher: str = "resnet_fpn",
    work: Path = WORK,
    rules: Sequence[str] = tuple(RULES),
    windows: Sequence[tuple[int, int]] = WINDOWS,
) -> dict[str, Any]:
    """Measures every row on `images` panoramas of one world; prints tables and returns the figures.

    Raises:
        UserError: a panorama failed.
    """
    world = World.make(work, 0, shift, split, images)

    def combination(values: dict[str, Any], change: dict[str, Any]) -> Combination:
        return Combination(values, world.config("felzenszwalb", change, teacher))

    groups: dict[str, list[Combination]] = {}
    for name in rules:
        rule, values = RULES[name]
        setting = name.partition(": ")[2]
        groups[name] = [combination({name: v}, {"fusion": {"rule": {"kind": rule, setting: v}}}) for v in values]
    shapes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for width, stride in windows:
        shapes[f"{width} / {stride}"] = ({"width": width, "stride": stride}, {"width": width, "stride": stride})
    # padding keeps masks whole at the seam; the TA gets the plain panorama, as in the row ta_whole
    shapes["whole"] = ({"kind": "whole", "padding": 128}, {"kind": "whole"})
    groups["width / stride"] = [
        combination(
            {"width / stride": shape, "rule": rule},
            {"sam": {"views": masks}, "teacher": {"views": logits}, "fusion": {"rule": rule}},
        )
        for shape, (masks, logits) in shapes.items()
        for rule in WINDOW_RULES
    ]
    result: dict[str, Any] = {}
    with console_progress() as progress:
        for name, grid in groups.items():
            measuring = Measuring(world.manifest, Store(work), work, progress=progress)
            rows = measuring.rows(grid, lambda _: None)
            for row in rows:
                if row.failures:
                    raise UserError(f"{row.name}: {next(iter(row.failures.values()))}")
            print_table(
                f"{name}; {teacher}, felzenszwalb, {images} panoramas of {split} ({shift})",
                *ensemble_table(rows, list(grid[0].values)),
            )
            result[name] = [_figures(row) for row in rows]
    return result | {"images": images, "shift": shift, "split": split}


def _figures(row: Row) -> dict[str, Any]:
    return row.values | {name: row.figures[name] for name in TITLES}


def main(
    images: Annotated[int, typer.Option(min=1, help="Panoramas.")] = IMAGES,
    tune: Annotated[bool, typer.Option("--tune", help="Measure target-tune, the split for choosing rules.")] = False,
    teacher: Annotated[str, typer.Option(help="resnet_fpn or segformer.")] = "resnet_fpn",
) -> None:
    """Measure pseudo-labels by thresholds and windows on the demo world."""
    split: Split = "target-tune" if tune else "target-test"
    run_alone("sensitivity", lambda: compare(images, split, teacher=teacher))


if __name__ == "__main__":
    typer.run(main)
