"""Training images, segments and prompts of nano SAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.sam import data
from demo.sam.data import (
    MIN_PIXELS,
    SOURCES,
    LabelledImages,
    Source,
    crop_window,
    draw_pixels,
    draw_window,
    label_segments,
    load_sources,
    make_prompts,
    segment_extents,
    zoom_window,
)
from demo.splits import WorldSettings, render_sample


def test_no_source_has_the_seed_of_the_demo() -> None:
    assert all(source.seed != WorldSettings().seed for source in SOURCES)
    with pytest.raises(ValueError, match="seed: found 0, the demo's own; expected another seed"):
        Source("x", "target-test", 1, seed=0)


def test_an_interrupted_rendering_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD", 1)
    source = Source("x", "source-train", 2, seed=9)
    rendered: list[int] = []

    def render(settings: WorldSettings, split: str, index: int) -> object:
        rendered.append(index)
        if rendered == [0, 1]:
            raise KeyboardInterrupt
        return render_sample(settings, "source-train", index)

    monkeypatch.setattr(data, "render_sample", render)
    with pytest.raises(KeyboardInterrupt):
        load_sources(tmp_path, (source,), lambda _: None)
    images = load_sources(tmp_path, (source,), lambda _: None)
    assert rendered == [0, 1, 1]
    assert not images.cyclic
    expected = render_sample(WorldSettings(seed=9), "source-train", 1)
    np.testing.assert_array_equal(images.image[1], expected.image)
    np.testing.assert_array_equal(images.instance[1], expected.labels.instance)


def test_segments_are_connected_components_of_instances() -> None:
    instance = np.array([[7, 7, 0, 7], [7, 0, 0, 7], [0, 0, 9, 0], [7, 7, 0, 0]], np.uint16)
    segments = label_segments(instance)
    assert segments.min() == 0
    assert len(np.unique(segments)) == segments.max() + 1
    components = {frozenset(zip(*np.nonzero(segments == k), strict=True)) for k in range(segments.max() + 1)}
    assert frozenset({(0, 0), (0, 1), (1, 0)}) in components, "disconnected parts of an instance are two segments"
    assert frozenset({(0, 3), (1, 3)}) in components
    assert len(components) == 5, "three components of 7, one of 9, and 0 joined across corners"


def blocks() -> LabelledImages:
    """Returns a cyclic image (1, 40, 64): a large segment, a medium one across the seam, a tiny one."""
    instance = np.ones((1, 40, 64), np.uint16)
    instance[0, 5:15, :4] = instance[0, 5:15, -4:] = 2
    instance[0, 30:33, 30:33] = 3
    return LabelledImages(np.zeros((1, 40, 64, 3), np.uint8), instance, cyclic=True)


def test_a_window_crosses_the_seam() -> None:
    window = crop_window(blocks(), 0, 56, width=16)
    assert sorted(np.bincount(window.segments.ravel())) == [80, 40 * 16 - 80]
    drawn = draw_window(blocks(), np.random.default_rng(0))
    assert drawn.image.dtype == np.uint8
    assert drawn.image.shape[:2] == drawn.segments.shape


def test_zoom_keeps_image_and_segments_aligned() -> None:
    instance = np.repeat(np.repeat(np.arange(20, dtype=np.uint16).reshape(4, 5), 10, axis=0), 10, axis=1)
    image = np.repeat((instance * 12).astype(np.uint8)[..., None], 3, axis=2)
    window = crop_window(LabelledImages(image[None], instance[None], cyclic=False), 0, 0, width=50)
    large = zoom_window(window, 2.0, np.random.default_rng(1))
    assert large.image.shape == window.image.shape
    assert large.segments.max() < window.segments.max()
    block = np.round(large.image[..., 0] / 12).astype(int)
    values = [int(np.bincount(block[large.segments == k]).argmax()) for k in range(large.segments.max() + 1)]
    assert np.mean(np.array(values)[large.segments] == block) > 0.85, "a segment covers one block"
    assert np.bincount(large.segments.ravel()).max() == 400, "a block of 10 x 10 becomes 20 x 20"


def test_pixels_are_drawn_by_pixel_and_by_segment() -> None:
    segments = crop_window(blocks(), 0, 32, width=64).segments
    tiny = segments[31, 63]
    medium = segments[10, 32]
    assert (segments == tiny).sum() < MIN_PIXELS
    rng = np.random.default_rng(0)
    drawn = segments.ravel()[draw_pixels(segments, 2000, rng)]
    assert (drawn != tiny).all()
    assert (drawn[:1000] == medium).mean() == pytest.approx(80 / (40 * 64), abs=0.02)
    assert (drawn[1000:] == medium).mean() == pytest.approx(0.5, abs=0.05)
    short = segments.ravel()[draw_pixels(segments, 50, rng, by_pixel=0, largest=10)]
    assert (short == medium).all()
    assert not len(draw_pixels(segments, 50, rng, largest=3))


def test_prompts_are_inside_their_segments() -> None:
    frame = render_sample(WorldSettings(seed=9), "source-train", 0)
    segments = label_segments(frame.labels.instance)
    rng = np.random.default_rng(0)
    pixels = draw_pixels(segments, 40, rng)
    prompts = make_prompts(segments, pixels, 15, rng)
    assert prompts.points.shape == (25, 2)
    assert prompts.boxes.shape == (15, 4)
    x, y = prompts.points.astype(int).T
    np.testing.assert_array_equal(segments[y, x], prompts.target[:25])
    for target, (low, high) in zip(prompts.target, segment_extents(segments)[prompts.target], strict=True):
        rows, columns = np.nonzero(segments == target)
        assert ((rows.min(), columns.min()), (rows.max(), columns.max())) == (tuple(low), tuple(high))
    side = (prompts.extent[25:, 1] - prompts.extent[25:, 0] + 1)[:, ::-1]
    assert (np.abs(prompts.boxes[:, :2] - prompts.extent[25:, 0, ::-1]) <= 0.1 * side + 1e-4).all()
    assert (np.abs(prompts.boxes[:, 2:] - prompts.extent[25:, 1, ::-1]) <= 0.1 * side + 1e-4).all()
    assert prompts.boxes.min() >= 0
