"""What nano SAM learns from: labelled pictures of other seeds, rendered once into shards, and cut into windows.

A shard is an `.npz` without pickle: `image` (N, H, W, 3) uint8 and `instance` (N, H, W) uint16. It is
written whole or not at all, so that rendering goes on where it was interrupted. Nothing here knows the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from demo.domain import Shift
from demo.splits import RENDERER, Split, WorldSettings, render_sample
from pipeline.core.atomic_files import whole_file

RGB = NDArray[np.uint8]
Segments = NDArray[np.int32]

WINDOW = 256
"""Width of a panorama window in pixels; the demo's windows at half size."""
ZOOM = (1.3, 2.2)
"""Range of enlargement; the crops of the mask generator's first layer are enlarged 1.6 to 1.9 times."""
SHARD = 32
"""Samples in a shard."""
MIN_PIXELS = 20
"""Smaller segments are never asked for."""


@dataclass(frozen=True)
class Source:
    """The first `count` samples of one split of one town; seeds other than the demo's own (0)."""

    name: str
    split: Split
    count: int
    seed: int
    shift: Shift = "mild"

    def __post_init__(self) -> None:
        if self.seed == WorldSettings().seed:
            raise ValueError(f"seed {self.seed} is the demo's own; nano SAM learns from other seeds")


PANORAMAS = (
    Source("panoramas-mild", "target-train", 384, seed=1000),
    Source("panoramas-strong", "target-train", 96, seed=1001, shift="strong"),
)
PINHOLES = (Source("pinholes", "source-train", 320, seed=1000),)
HELD_OUT = (Source("held-out", "target-tune", 32, seed=1002),)
SOURCES = (*PANORAMAS, *PINHOLES, *HELD_OUT)


@dataclass(frozen=True)
class Pictures:
    """`image` (N, H, W, 3) uint8 with `instance` (N, H, W) uint16 ids; `cyclic` for panoramas."""

    image: RGB
    instance: NDArray[np.uint16]
    cyclic: bool


@dataclass(frozen=True)
class Window:
    """`image` (h, w, 3) uint8 and `segments` (h, w) int32, every pixel in exactly one, numbered from 0."""

    image: RGB
    segments: Segments


def _shard_path(folder: Path, source: Source, shard: int) -> Path:
    return folder / f"{source.name}-{source.shift}-{source.seed}-r{RENDERER}-{shard:03d}.npz"


def render_source(folder: Path, source: Source, report: Callable[[str], None]) -> None:
    """Render the shards that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = WorldSettings(shift=source.shift, seed=source.seed)
    for shard in range(-(-source.count // SHARD)):
        path = _shard_path(folder, source, shard)
        if path.exists():
            continue
        began = time.monotonic()
        indices = range(shard * SHARD, min((shard + 1) * SHARD, source.count))
        frames = [render_sample(settings, source.split, index) for index in indices]
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                image=np.stack([frame.image for frame in frames]),
                instance=np.stack([frame.labels.instance for frame in frames]),
            )
        rate = len(frames) / (time.monotonic() - began)
        report(f"{source.name}: {indices.stop} of {source.count} rendered, {rate:.1f} images/s")


def load_sources(folder: Path, sources: tuple[Source, ...], report: Callable[[str], None]) -> Pictures:
    """All pictures of these sources (of one size), rendering what is missing."""
    images: list[RGB] = []
    instances: list[NDArray[np.uint16]] = []
    for source in sources:
        render_source(folder, source, report)
        for shard in range(-(-source.count // SHARD)):
            with np.load(_shard_path(folder, source, shard), allow_pickle=False) as content:
                images.append(content["image"])
                instances.append(content["instance"])
    cyclic = sources[0].split.startswith("target")
    return Pictures(np.concatenate(images), np.concatenate(instances), cyclic)


def segments_of(instance: NDArray[np.uint16]) -> Segments:
    """The 8-connected pieces of equal instance id `(h, w)`, numbered from 0: what a mask should cover.

    Pieces, not whole instances: a mask generator's prompt names a place, and what lies behind a pole on its other
    side is a mask of its own.
    """
    from skimage.measure import label

    pieces: Segments = label(instance.astype(np.int32) + 1, connectivity=2, background=0).astype(np.int32) - 1
    return pieces


def cut_window(pictures: Pictures, index: int, x0: int, width: int = WINDOW) -> Window:
    """Columns `x0 .. x0+width-1` (cyclic) of one picture, at full height."""
    columns = np.arange(x0, x0 + width) % pictures.image.shape[2]
    image = np.ascontiguousarray(pictures.image[index][:, columns])
    return Window(image, segments_of(pictures.instance[index][:, columns]))


def draw_window(pictures: Pictures, rng: np.random.Generator) -> Window:
    """A random window, mirrored half of the time, with another exposure, colour cast and contrast.

    Every other one is a part of it enlarged to the window's size, as the mask generator's crops are.
    """
    index = int(rng.integers(len(pictures.image)))
    x0 = int(rng.integers(pictures.image.shape[2])) if pictures.cyclic else 0
    window = cut_window(pictures, index, x0)
    if rng.random() < 0.5:
        window = enlarge(window, float(rng.uniform(*ZOOM)), rng)
    image, segments = window.image.astype(np.float32), window.segments
    if rng.random() < 0.5:
        image, segments = image[:, ::-1], np.ascontiguousarray(segments[:, ::-1])
    gain = rng.uniform(0.8, 1.2, 3) if rng.random() < 0.5 else np.repeat(rng.uniform(0.8, 1.2), 3)
    mean = image.mean()
    image = (image - mean) * rng.uniform(0.75, 1.2) + mean
    image = image * gain.astype(np.float32) + np.float32(rng.uniform(-15, 15))
    return Window(np.clip(image, 0, 255).astype(np.uint8), segments)


def enlarge(window: Window, zoom: float, rng: np.random.Generator) -> Window:
    """A random part of a window, `zoom` times as large, in the window's size; the picture bilinear as SAM's own
    resizing, segments by the nearest pixel."""
    from PIL import Image

    height, width = window.segments.shape
    h, w = round(height / zoom), round(width / zoom)
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    picture = Image.fromarray(window.image[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = (np.arange(height) * h) // height, (np.arange(width) * w) // width
    part = window.segments[y : y + h, x : x + w][rows[:, None], columns]
    return Window(np.asarray(picture), segments_of(part.astype(np.uint16)))


@dataclass(frozen=True)
class Prompts:
    """`points` (P, 2) float32 XY and `boxes` (B, 4) float32 XYXY in pixels, points first in what follows:
    `target` (P + B,) int64 numbers of segments; `extent` (P + B, 2, 2) int64, the first and last pixel of the
    segment, each (row, column)."""

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    target: NDArray[np.int64]
    extent: NDArray[np.int64]


def extents(segments: Segments) -> NDArray[np.int64]:
    """First and last pixel of every segment, inclusive: (S, 2, 2), each (row, column)."""
    from scipy.ndimage import find_objects

    found = find_objects(segments + 1)
    return np.array([[[y.start, x.start], [y.stop - 1, x.stop - 1]] for y, x in found], np.int64).reshape(-1, 2, 2)


def draw_pixels(
    segments: Segments, count: int, rng: np.random.Generator, *, by_pixel: float = 0.5, largest: int | None = None
) -> NDArray[np.intp]:
    """`count` pixels (flat indices) of segments that are neither too small nor longer than `largest`.

    The first `by_pixel` of them are uniform over pixels, the others uniform over segments, then over the segment's
    pixels: small segments are many but cover little. Fewer than `count` (none) if no segment qualifies.
    """
    flat = segments.reshape(-1)
    areas = np.bincount(flat)
    allowed = areas >= MIN_PIXELS
    if largest is not None:
        box = extents(segments)
        allowed &= (box[:, 1] - box[:, 0] + 1 <= largest).all(1)
    choices = np.flatnonzero(allowed)
    if not len(choices):
        return np.empty(0, np.intp)
    order = np.argsort(flat, kind="stable")
    first = np.concatenate([[0], np.cumsum(areas)])
    pixels = round(by_pixel * count)
    chosen = rng.choice(choices, count - pixels)
    within = order[first[chosen] + (rng.random(len(chosen)) * areas[chosen]).astype(np.intp)]
    return np.concatenate([rng.choice(np.flatnonzero(allowed[flat]), pixels), within])


def prompts_at(segments: Segments, pixels: NDArray[np.intp], boxes: int, rng: np.random.Generator) -> Prompts:
    """Prompts for the segments at `pixels` (N,): the last `boxes` of them as boxes whose edges are off by up to
    a tenth of the side, the others as points."""
    height, width = segments.shape
    target = segments.reshape(-1)[pixels].astype(np.int64)
    extent = extents(segments)[target]
    points = len(pixels) - boxes
    place = np.stack([pixels[:points] % width, pixels[:points] // width], axis=1).astype(np.float32)
    box = extent[points:, :, ::-1].reshape(-1, 4).astype(np.float32)
    side = np.tile(box[:, 2:] - box[:, :2] + 1, 2)
    box = np.clip(box + rng.uniform(-0.1, 0.1, box.shape) * side, 0, [width - 1, height - 1] * 2)
    return Prompts(place, box.astype(np.float32), target, extent)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    part: Annotated[int, typer.Option(help="Render only every n-th source, beginning at PART of --parts.")] = 0,
    parts: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
) -> None:
    """Render what nano SAM learns from; run again, it goes on where it stopped."""
    for source in SOURCES[part::parts]:
        render_source(out, source, typer.echo)


if __name__ == "__main__":
    typer.run(main)
