"""Writes the demo world to a folder: `python -m demo.world --out DIR`.

    images/<split>/<name>.png                              8-bit RGB
    labels/<split>/<name>_labelTrainIds.png                8-bit Cityscapes train ids
    instances/<split>/<name>_instanceIds.png               16-bit instance ids, 0 = sky
    labels_withheld/target-train/<name>_labelTrainIds.png  labels that only the evaluation may read
    instances_withheld/target-train/<name>_instanceIds.png
    world.json                                             the settings that made the folder

Files are written atomically, and existing files are not rendered again: an interrupted run continues where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from demo.domain import SHIFTS
from demo.splits import SIZES, SPLITS, WITHHELD, Split, WorldSettings, render_sample
from pipeline.core.atomic_files import atomic_write, write_text
from pipeline.core.errors import UserError

DEFAULT_COUNTS: dict[Split, int] = {
    "source-train": 600,
    "source-val": 60,
    "target-train": 60,
    "target-tune": 12,
    "target-test": 24,
}
_SETTINGS_FILE = "world.json"
_PNG_LEVEL = 2  # sensor noise hardly compresses; a higher level costs time only


@dataclass(frozen=True)
class SamplePaths:
    """Paths of the three files of a sample."""

    image: Path
    labels: Path
    instances: Path

    def exist(self) -> bool:
        """Returns whether all three files exist."""
        return self.image.exists() and self.labels.exists() and self.instances.exists()


def sample_paths(out: Path, split: Split, index: int) -> SamplePaths:
    """Returns the paths of a sample below `out`."""
    name, suffix = f"{split}-{index:05d}", "_withheld" if split in WITHHELD else ""
    return SamplePaths(
        image=out / "images" / split / f"{name}.png",
        labels=out / f"labels{suffix}" / split / f"{name}_labelTrainIds.png",
        instances=out / f"instances{suffix}" / split / f"{name}_instanceIds.png",
    )


def missing_samples(out: Path, counts: Mapping[Split, int]) -> list[tuple[Split, int]]:
    """Returns split and index of the incomplete ones of the first `counts[split]` samples."""
    return [(s, k) for s, n in counts.items() for k in range(n) if not sample_paths(out, s, k).exist()]


def write_world(
    out: Path,
    settings: WorldSettings,
    counts: Mapping[Split, int],
    workers: int = 1,
    advance: Callable[[Split], None] = lambda split: None,
) -> int:
    """Renders the missing ones of the first `counts[split]` samples of every split.

    Args:
        out: the folder.
        settings: the settings of the world.
        counts: samples of each split.
        workers: number of processes.
        advance: called with the split after every rendered sample.

    Returns:
        The number of rendered samples.

    Raises:
        UserError: other settings made the folder.
    """
    check_settings(out, settings)
    missing = missing_samples(out, counts)
    for split in _render_all(out, settings, missing, workers):
        advance(split)
    return len(missing)


def _render_all(out: Path, settings: WorldSettings, jobs: list[tuple[Split, int]], workers: int) -> Iterator[Split]:
    """Renders the samples in this process or in several; yields the split of each finished one."""
    if min(workers, len(jobs)) <= 1:
        for split, index in jobs:
            yield write_sample(out, settings, split, index)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(write_sample, out, settings, *job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def write_sample(out: Path, settings: WorldSettings, split: Split, index: int) -> Split:
    """Renders one sample, writes its three files, the image last, and returns the split."""
    frame = render_sample(settings, split, index)
    paths = sample_paths(out, split, index)
    _write_png(paths.labels, frame.labels.semantic)
    _write_png(paths.instances, frame.labels.instance)
    _write_png(paths.image, frame.image)
    return split


def _write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=_PNG_LEVEL)


def check_settings(out: Path, settings: WorldSettings) -> None:
    """Writes the settings into a new folder, or compares them with those of an existing one.

    Raises:
        UserError: other settings made the folder, or its settings file is damaged.
    """
    path, wanted = out / _SETTINGS_FILE, settings.record()
    try:
        recorded = json.loads(path.read_text())
    except FileNotFoundError:
        write_text(path, json.dumps(wanted, indent=2) + "\n")
        return
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: found no JSON object; expected the settings of a demo world")
    for key, value in wanted.items():
        if recorded.get(key) != value:
            raise UserError(
                f"{path}: {key}: found {recorded.get(key)!r}; expected {value!r}; choose another folder, "
                "or remove this one"
            )


def parse_counts(entries: list[str]) -> dict[Split, int]:
    """Parses counts like `["target-train=40", "source-val=5,target-test=3"]`.

    Raises:
        UserError: an entry is not SPLIT=NUMBER.
    """
    counts: dict[Split, int] = {}
    for entry in ",".join(entries).split(","):
        split, _, number = entry.strip().partition("=")
        if split not in SPLITS or not number.isdecimal():
            raise UserError(f"--counts: found {entry!r}; expected SPLIT=NUMBER with one of {', '.join(SPLITS)}")
        counts[split] = int(number)
    return counts


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to; it is created if necessary.")],
    size: Annotated[str, typer.Option(help="half: panoramas 200x1024, photos 128x256. full: twice that.")] = "half",
    shift: Annotated[str, typer.Option(help="Domain shift of the target: none, mild or strong.")] = "mild",
    counts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=NUMBER",
            help="Samples of a split; may be repeated or separated by commas. Other splits are omitted. "
            f"Default: {', '.join(f'{s}={n}' for s, n in DEFAULT_COUNTS.items())}.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all scenes.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 starts one per core.")] = 0,
) -> None:
    """Render the procedural street world: labelled photos (source) and panoramas (target)."""
    console = Console(stderr=True)
    try:
        if size not in SIZES:
            raise UserError(f"--size: found {size!r}; expected one of {', '.join(SIZES)}")
        if shift not in SHIFTS:
            raise UserError(f"--shift: found {shift!r}; expected one of {', '.join(SHIFTS)}")
        settings = WorldSettings(size, shift, seed)
        wanted = parse_counts(counts) if counts else DEFAULT_COUNTS
        check_settings(out, settings)
        missing = Counter(split for split, _ in missing_samples(out, wanted))
        columns = (
            TextColumn("{task.description:14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            tasks = {
                split: progress.add_task(split, total=n, completed=n - missing[split], rate="")
                for split, n in wanted.items()
            }

            def advance(split: Split) -> None:
                progress.advance(tasks[split])
                speed = progress.tasks[tasks[split]].speed
                progress.update(tasks[split], rate=f"{speed:.1f}/s" if speed else "")

            rendered = write_world(out, settings, wanted, workers or len(os.sched_getaffinity(0)), advance)
    except (UserError, OSError) as error:
        console.print(str(error), style="red", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(2) from error
    console.print(f"{rendered} samples rendered, {sum(wanted.values()) - rendered} existed: {out}")


if __name__ == "__main__":
    typer.run(main)
