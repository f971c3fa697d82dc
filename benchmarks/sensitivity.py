"""How much the pseudo-labels depend on what was chosen: settings of the rules, width and stride of the windows.

The paper varies the windows in its Table 4; the sizes here are ours, for half size: double them for 400 x 2048. The
panoramas, the masks (felzenszwalb) and the cache are those of `pseudo_labels`, one world; rows are kept in
`sensitivity.json` beside it. Fewer images: `python -m benchmarks.sensitivity --images 4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.pseudo_labels import IMAGES, WORK, World
from demo.domain import Shift
from demo.splits import Split
from pipeline.core.cli import echo, print_json, print_table
from pipeline.core.errors import UserError
from pipeline.core.progress import console_progress
from stages.ablate.grid import Combination
from stages.ablate.stage import SCORES, SIGNALS, Row, Stages, ablate, table
from stages.commands import stage_function

#: Settings of a rule that are varied one at a time, the others at their defaults (which are among the values).
RULES: dict[str, tuple[str, Sequence[float]]] = {
    "paper: theta": ("paper", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "best: theta": ("best", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "best: strength": ("best", (0.25, 0.45, 0.65, 0.8, 1.0)),
    "best: floor": ("best", (0.001, 0.01, 0.05, 0.1)),
    "best: island_confidence": ("best", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "sepl: share": ("sepl", (0.3, 0.5, 0.7, 0.9)),
}

#: Width and stride of the windows of SAM and the TA, in pixels of 200 x 1024.
WINDOWS = (
    (128, 32), (128, 64), (128, 128), (256, 64), (256, 128), (256, 192), (256, 256), (512, 128), (512, 256), (512, 512),
)  # fmt: skip

#: Rules that are run on every choice of windows.
WINDOW_RULES = ("ta", "paper", "best")


def run() -> dict[str, Any]:
    """Both tables on `target-test`."""
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

    Raises `UserError` if a panorama fails.
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
    # masks must not be cut at the seam; the TA alone sees the panorama as it is, as in the row ta_whole
    shapes["whole"] = ({"kind": "whole", "padding": 128}, {"kind": "whole"})
    groups["width / stride"] = [
        combination(
            {"width / stride": shape, "rule": rule},
            {"sam": {"views": masks}, "teacher": {"views": logits}, "fusion": {"rule": rule}},
        )
        for shape, (masks, logits) in shapes.items()
        for rule in WINDOW_RULES
    ]
    stages = Stages(stage_function("precompute", "check"), *map(stage_function, ("precompute", "fuse", "evaluate")))
    result: dict[str, Any] = {}
    with console_progress() as progress:
        for name, grid in groups.items():
            rows = ablate(world.manifest, grid, stages, work / "sensitivity.json", progress=progress)
            for row in rows:
                if row.failures:
                    raise UserError(f"{row.combination.name}: {next(iter(row.failures.values()))}")
            print_table(f"{name}; {teacher}, felzenszwalb, {images} panoramas of {split} ({shift})", *table(rows))
            result[name] = [_figures(row) for row in rows]
    return result | {"images": images, "shift": shift, "split": split}


def _figures(row: Row) -> dict[str, Any]:
    return row.combination.values | {name: row.figures[name] for name in (*SCORES, *SIGNALS)}


def main(
    images: Annotated[int, typer.Option(min=1, help="Panoramas.")] = IMAGES,
    tune: Annotated[bool, typer.Option("--tune", help="Measure target-tune, on which rules are chosen.")] = False,
    teacher: Annotated[str, typer.Option(help="resnet_fpn or segformer.")] = "resnet_fpn",
) -> None:
    """Pseudo-labels by thresholds and windows on the demo world."""
    try:
        result = compare(images, "target-tune" if tune else "target-test", teacher=teacher)
    except UserError as error:
        echo(f"error: {error}")
        raise typer.Exit(2) from None
    print_json({"benchmark": "sensitivity", **result})


if __name__ == "__main__":
    typer.run(main)
