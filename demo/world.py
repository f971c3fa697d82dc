"""Writes the demo world to a folder: `python -m demo.world --out DIR`.

    images/<split>/<name>.png                              8-bit RGB
    labels/<split>/<name>_labelTrainIds.png                8-bit Cityscapes train ids
    instances/<split>/<name>_instanceIds.png               16-bit instance ids, 0 = sky
    labels_withheld/target-train/<name>_labelTrainIds.png  labels that only evaluation may read
    instances_withheld/target-train/<name>_instanceIds.png
    world.json                                             the settings that made the folder

Every file appears under its name only when it is complete; files that are there are not rendered again, so
a run that was cut off goes on where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
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

DEFAULT_COUNTS: dict[Split, int] = {
    "source-train": 600,
    "source-val": 60,
    "target-train": 60,
    "target-tune": 12,
    "target-test": 24,
}
_SETTINGS_FILE = "world.json"
_PNG_LEVEL = 2  # sensor noise does not compress; more effort costs time only


class WorldError(ValueError):
    """A request that cannot be carried out; the message is one sentence for the user."""


@dataclass(frozen=True)
class SamplePaths:
    """Where a sample's three files are."""

    image: Path
    labels: Path
    instances: Path

    def complete(self) -> bool:
        return self.image.exists() and self.labels.exists() and self.instances.exists()


def sample_name(split: Split, index: int) -> str:
    return f"{split}-{index:05d}"


def sample_paths(out: Path, split: Split, index: int) -> SamplePaths:
    """The paths of a sample below `out`."""
    name, suffix = sample_name(split, index), "_withheld" if split in WITHHELD else ""
    return SamplePaths(
        image=out / "images" / split / f"{name}.png",
        labels=out / f"labels{suffix}" / split / f"{name}_labelTrainIds.png",
        instances=out / f"instances{suffix}" / split / f"{name}_instanceIds.png",
    )


def missing_samples(out: Path, counts: Mapping[Split, int]) -> list[tuple[Split, int]]:
    """Split and index of those of the first `counts[split]` samples whose files are not all there."""
    return [(s, k) for s, n in counts.items() for k in range(n) if not sample_paths(out, s, k).complete()]


def write_world(
    out: Path,
    settings: WorldSettings,
    counts: Mapping[Split, int],
    workers: int = 1,
    advance: Callable[[Split], None] = lambda split: None,
) -> int:
    """Render what is missing of the first `counts[split]` samples of every split; returns how many that were.

    `advance(split)` is called after every sample rendered. Raises `WorldError` if the folder was made with other
    settings.
    """
    claim(out, settings)
    missing = missing_samples(out, counts)
    for split in {split for split, _ in missing}:
        paths = sample_paths(out, split, 0)
        for path in (paths.image, paths.labels, paths.instances):
            path.parent.mkdir(parents=True, exist_ok=True)
    for split in _run(out, settings, missing, workers):
        advance(split)
    return len(missing)


def _run(out: Path, settings: WorldSettings, jobs: list[tuple[Split, int]], workers: int) -> Iterator[Split]:
    """Render the jobs, in this process or in others; yields the split of each finished one."""
    if min(workers, len(jobs)) <= 1:
        for split, index in jobs:
            yield write_sample(out, settings, split, index)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        queue, running = iter(jobs), set[Future[Split]]()
        try:
            while True:
                while len(running) < 2 * workers and (job := next(queue, None)):
                    running.add(pool.submit(write_sample, out, settings, *job))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def write_sample(out: Path, settings: WorldSettings, split: Split, index: int) -> Split:
    """Render one sample and write its three files, the picture last."""
    frame = render_sample(settings, split, index)
    paths = sample_paths(out, split, index)
    _write_png(paths.labels, frame.labels.semantic)
    _write_png(paths.instances, frame.labels.instance)
    _write_png(paths.image, frame.image)
    return split


def _write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            Image.fromarray(pixels).save(file, format="PNG", compress_level=_PNG_LEVEL)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def claim(out: Path, settings: WorldSettings) -> None:
    """Write the settings into a new folder, or raise `WorldError` if others made it."""
    path, wanted = out / _SETTINGS_FILE, settings.record()
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        out.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part-{os.getpid()}")
        part.write_text(json.dumps(wanted, indent=2) + "\n")
        part.replace(path)
        return
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WorldError(f"{path}: expected a JSON object with the settings of a demo world.")
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise WorldError(
                f"{path}: this folder was made with {key} = {found.get(key)!r}, but {key} = {wanted[key]!r} "
                "is asked for; choose another folder or remove this one."
            )


def parse_counts(entries: list[str]) -> dict[Split, int]:
    """`["target-train=40", "source-val=5,target-test=3"]` as a table; raises `WorldError`."""
    counts: dict[Split, int] = {}
    for entry in ",".join(entries).split(","):
        split, _, number = entry.strip().partition("=")
        if split not in SPLITS or not number.isdecimal():
            raise WorldError(f"--counts {entry!r}: expected SPLIT=NUMBER with one of {', '.join(SPLITS)}.")
        counts[split] = int(number)
    return counts


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is not there.")],
    size: Annotated[str, typer.Option(help="half: panoramas 200x1024, pinhole 128x256. full: twice that.")] = "half",
    shift: Annotated[str, typer.Option(help="Looks of the target domain: none, mild or strong.")] = "mild",
    counts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=NUMBER",
            help="Samples of a split; may be repeated or separated by commas. Splits not named are left out. "
            f"Default: {', '.join(f'{s}={n}' for s, n in DEFAULT_COUNTS.items())}.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another town.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one per core.")] = 0,
) -> None:
    """Render the procedural street world: labelled pinhole images (source) and panoramas (target)."""
    console = Console(stderr=True)
    try:
        if size not in SIZES:
            raise WorldError(f"--size {size!r}: expected one of {', '.join(SIZES)}.")
        if shift not in SHIFTS:
            raise WorldError(f"--shift {shift!r}: expected one of {', '.join(SHIFTS)}.")
        settings = WorldSettings(size, shift, seed)
        wanted = parse_counts(counts) if counts else DEFAULT_COUNTS
        claim(out, settings)
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
    except (WorldError, OSError) as error:
        console.print(str(error), style="red", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(2) from error
    console.print(f"{rendered} samples rendered, {sum(wanted.values()) - rendered} were there: {out}")


if __name__ == "__main__":
    typer.run(main)
