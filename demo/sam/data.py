"""Training data of nano SAM: rendered images with instance labels, cropped into windows, and prompts.

Images are rendered once into shards, `.npz` files without pickle: `image` (N, H, W, 3) uint8 and `instance` (N, H, W)
uint16. Shards are written atomically; an interrupted rendering continues where it stopped.
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
from pipeline.core.atomic_files import atomic_write

RGB = NDArray[np.uint8]
Segments = NDArray[np.int32]

#: Width of a panorama window in pixels, that of the demo's windows at half size.
WINDOW = 256
#: Range of the zoom; the crops of the mask generator's first layer are enlarged 1.6 to 1.9 times.
ZOOM = (1.3, 2.2)
#: Images of a shard.
SHARD = 32
#: Segments with fewer pixels get no prompt.
MIN_PIXELS = 20


@dataclass(frozen=True)
class Source:
    """The first `count` samples of a split of a world whose seed is not the demo's own (0)."""

    name: str
    split: Split
    count: int
    seed: int
    shift: Shift = "mild"

    def __post_init__(self) -> None:
        if self.seed == WorldSettings().seed:
            raise ValueError(f"seed: found {self.seed}, the demo's own; expected another seed")


PANORAMAS = (
    Source("panoramas-mild", "target-train", 384, seed=1000),
    Source("panoramas-strong", "target-train", 96, seed=1001, shift="strong"),
)
PINHOLES = (Source("pinholes", "source-train", 320, seed=1000),)
HELD_OUT = (Source("held-out", "target-tune", 32, seed=1002),)
SOURCES = (*PANORAMAS, *PINHOLES, *HELD_OUT)


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, H, W, 3) uint8 with instance ids (N, H, W) uint16; `cyclic` for panoramas."""

    image: RGB
    instance: NDArray[np.uint16]
    cyclic: bool


@dataclass(frozen=True)
class Window:
    """An image (h, w, 3) uint8 and its segment numbers (h, w) int32, counted from 0."""

    image: RGB
    segments: Segments


def _shard_path(folder: Path, source: Source, shard: int) -> Path:
    return folder / f"{source.name}-{source.shift}-{source.seed}-r{RENDERER}-{shard:03d}.npz"


def render_source(folder: Path, source: Source, report: Callable[[str], None]) -> None:
    """Renders the missing shards of a source; calls `report` with a line for each."""
    settings = WorldSettings(shift=source.shift, seed=source.seed)
    for shard in range(-(-source.count // SHARD)):
        path = _shard_path(folder, source, shard)
        if path.exists():
            continue
        began = time.monotonic()
        indices = range(shard * SHARD, min((shard + 1) * SHARD, source.count))
        frames = [render_sample(settings, source.split, index) for index in indices]
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                image=np.stack([frame.image for frame in frames]),
                instance=np.stack([frame.labels.instance for frame in frames]),
            )
        rate = len(frames) / (time.monotonic() - began)
        report(f"{source.name}: {indices.stop} of {source.count} rendered, {rate:.1f} images/s")


def load_sources(folder: Path, sources: tuple[Source, ...], report: Callable[[str], None]) -> LabelledImages:
    """Loads all images of sources of one image size; renders what is missing."""
    images: list[RGB] = []
    instances: list[NDArray[np.uint16]] = []
    for source in sources:
        render_source(folder, source, report)
        for shard in range(-(-source.count // SHARD)):
            with np.load(_shard_path(folder, source, shard), allow_pickle=False) as content:
                images.append(content["image"])
                instances.append(content["instance"])
    cyclic = sources[0].split.startswith("target")
    return LabelledImages(np.concatenate(images), np.concatenate(instances), cyclic)


def label_segments(instance: NDArray[np.uint16]) -> Segments:
    """Numbers the 8-connected components of equal instance id `(h, w)` from 0.

    The components, not whole instances, are the targets of a mask generator: its prompt is a location, and the part of
    an object on the other side of an occluding pole is a mask of its own.
    """
    from skimage.measure import label

    segments: Segments = label(instance.astype(np.int32) + 1, connectivity=2, background=0).astype(np.int32) - 1
    return segments


def crop_window(images: LabelledImages, index: int, x0: int, width: int = WINDOW) -> Window:
    """Crops columns `x0 .. x0 + width - 1` (cyclic) of one image at full height."""
    columns = np.arange(x0, x0 + width) % images.image.shape[2]
    image = np.ascontiguousarray(images.image[index][:, columns])
    return Window(image, label_segments(images.instance[index][:, columns]))


def draw_window(images: LabelledImages, rng: np.random.Generator) -> Window:
    """Draws a random window, zoomed and mirrored with probability 0.5 each, with colour jitter.

    The zoom imitates the crops of the mask generator.
    """
    index = int(rng.integers(len(images.image)))
    x0 = int(rng.integers(images.image.shape[2])) if images.cyclic else 0
    window = crop_window(images, index, x0)
    if rng.random() < 0.5:
        window = zoom_window(window, float(rng.uniform(*ZOOM)), rng)
    image, segments = window.image.astype(np.float32), window.segments
    if rng.random() < 0.5:
        image, segments = image[:, ::-1], np.ascontiguousarray(segments[:, ::-1])
    gain = rng.uniform(0.8, 1.2, 3) if rng.random() < 0.5 else np.repeat(rng.uniform(0.8, 1.2), 3)
    mean = image.mean()
    image = (image - mean) * rng.uniform(0.75, 1.2) + mean
    image = image * gain.astype(np.float32) + np.float32(rng.uniform(-15, 15))
    return Window(np.clip(image, 0, 255).astype(np.uint8), segments)


def zoom_window(window: Window, zoom: float, rng: np.random.Generator) -> Window:
    """Enlarges a random part of a window `zoom` times to the window's size.

    The image is resized bilinearly, as in SAM, the segments by the nearest pixel.
    """
    from PIL import Image

    height, width = window.segments.shape
    h, w = round(height / zoom), round(width / zoom)
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image = Image.fromarray(window.image[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = (np.arange(height) * h) // height, (np.arange(width) * w) // width
    part = window.segments[y : y + h, x : x + w][rows[:, None], columns]
    return Window(np.asarray(image), label_segments(part.astype(np.uint16)))


@dataclass(frozen=True)
class Prompts:
    """Prompts of one window, points first in the arrays of all prompts.

    Attributes:
        points: (P, 2) float32 XY in pixels.
        boxes: (B, 4) float32 XYXY in pixels.
        target: (P + B,) int64 number of the segment.
        extent: (P + B, 2, 2) int64 first and last (row, column) of the segment.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    target: NDArray[np.int64]
    extent: NDArray[np.int64]


def segment_extents(segments: Segments) -> NDArray[np.int64]:
    """Returns the first and last (row, column) of every segment, inclusive: (S, 2, 2)."""
    from scipy.ndimage import find_objects

    slices = find_objects(segments + 1)
    return np.array([[[y.start, x.start], [y.stop - 1, x.stop - 1]] for y, x in slices], np.int64).reshape(-1, 2, 2)


def draw_pixels(
    segments: Segments, count: int, rng: np.random.Generator, *, by_pixel: float = 0.5, largest: int | None = None
) -> NDArray[np.intp]:
    """Draws pixels of segments.

    Args:
        segments: (h, w) numbers.
        count: number of pixels.
        rng: source of random numbers.
        by_pixel: share of the pixels, the first ones, that is uniform over pixels. The others are uniform over
            segments, then over the pixels of the segment: small segments are many but cover little.
        largest: longest side of an eligible segment, pixels.

    Returns:
        Flat indices (count,) in segments of at least `MIN_PIXELS`; empty if no segment is eligible.
    """
    flat = segments.reshape(-1)
    areas = np.bincount(flat)
    eligible = areas >= MIN_PIXELS
    if largest is not None:
        box = segment_extents(segments)
        eligible &= (box[:, 1] - box[:, 0] + 1 <= largest).all(1)
    choices = np.flatnonzero(eligible)
    if not len(choices):
        return np.empty(0, np.intp)
    order = np.argsort(flat, kind="stable")
    first = np.concatenate([[0], np.cumsum(areas)])
    uniform = round(by_pixel * count)
    chosen = rng.choice(choices, count - uniform)
    within = order[first[chosen] + (rng.random(len(chosen)) * areas[chosen]).astype(np.intp)]
    return np.concatenate([rng.choice(np.flatnonzero(eligible[flat]), uniform), within])


def pixels_to_xy(pixels: NDArray[np.intp], width: int) -> NDArray[np.intp]:
    """Returns the XY coordinates (N, 2) of flat pixel indices (N,) of an image of that width."""
    return np.stack([pixels % width, pixels // width], axis=1)


def make_prompts(segments: Segments, pixels: NDArray[np.intp], boxes: int, rng: np.random.Generator) -> Prompts:
    """Makes prompts for the segments at `pixels` (N,).

    The last `boxes` prompts are bounding boxes whose edges are off by up to a tenth of the side, the others points.
    """
    height, width = segments.shape
    target = segments.reshape(-1)[pixels].astype(np.int64)
    extent = segment_extents(segments)[target]
    count = len(pixels) - boxes
    box = extent[count:, :, ::-1].reshape(-1, 4).astype(np.float32)
    side = np.tile(box[:, 2:] - box[:, :2] + 1, 2)
    box = np.clip(box + rng.uniform(-0.1, 0.1, box.shape) * side, 0, [width - 1, height - 1] * 2)
    points = pixels_to_xy(pixels[:count], width).astype(np.float32)
    return Prompts(points, box.astype(np.float32), target, extent)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    part: Annotated[int, typer.Option(help="Render every n-th source from PART on, n = --parts.")] = 0,
    parts: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
) -> None:
    """Render the training data of nano SAM; an interrupted run continues where it stopped."""
    for source in SOURCES[part::parts]:
        render_source(out, source, typer.echo)


if __name__ == "__main__":
    typer.run(main)
