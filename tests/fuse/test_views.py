"""Every kind of views, through stages one and two."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.cache import Cache
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.models import street

TALL_AND_WIDE = "{width: 64, stride: 32, additional: [{width: 128, stride: 64, height: 64}]}"
PERSPECTIVE = "{kind: perspective, size: 64, views_per_pitch: 8}"
PADDED = "{kind: whole, padding: 64}"


@pytest.mark.parametrize(
    ("masks", "teacher"),
    [(TALL_AND_WIDE, TALL_AND_WIDE), (PERSPECTIVE, PERSPECTIVE), (PADDED, PADDED), (PADDED, PERSPECTIVE)],
)
def test_a_rolled_sphere_gives_the_rolled_ensemble(project: Project, masks: str, teacher: str) -> None:
    """Rolled by half the width, a multiple of the distance of all views.

    Masks of a padded panorama differ in the rolled image, so only the prediction is compared there.
    """
    image = np.concatenate([street(64, 256, seed=4), street(64, 256, seed=5)])
    for steps in range(2):
        project.add_image(f"rolled_{steps}.png", np.roll(image, 128 * steps, axis=1))
    for k in range(3):
        (project.folder / "images" / f"p{k:03d}.png").unlink()
    config = project.config(f"sam.views={masks}", f"teacher.views={teacher}", "fusion.rule=ssa")
    for report in (*precompute(project.manifest(), config), fuse(project.manifest(), config)):
        assert (report.computed, report.failures) == (2, {})
    key = config.artefacts(project.manifest().preprocessing).key("fused")
    groups = [Cache(config.cache, "toy").artefact("fused", key).read(f"rolled_{steps}") for steps in range(2)]
    base, rolled = ({name: np.asarray(group.read_array(name)) for name in ("label", "stitched")} for group in groups)
    assert base["label"].shape == (128, 256)
    assert len(np.unique(base["label"])) > 3
    if teacher != PADDED:
        np.testing.assert_array_equal(rolled["stitched"], np.roll(base["stitched"], 32, axis=-1))
    if masks != PADDED:
        np.testing.assert_array_equal(rolled["label"], np.roll(base["label"], 128, axis=1))


def test_views_that_leave_a_gap_fail_each_image(project: Project) -> None:
    change = "teacher.views={kind: perspective, size: 32, views_per_pitch: 2, pitches: [0]}"
    precompute(project.manifest(), project.config(change))
    report = fuse(project.manifest(), project.config(change, "fusion.rule=ta"))
    assert len(report.failures) == 3
    assert all("expected views all over the panorama" in reason for reason in report.failures.values())


def test_the_per_window_rule_expects_windows_of_full_height(project: Project) -> None:
    change = f"sam.views={PERSPECTIVE}", f"teacher.views={PERSPECTIVE}"
    precompute(project.manifest(), project.config(*change))
    report = fuse(project.manifest(), project.config(*change, "fusion.rule=paper"))
    assert all("expects windows of the panorama's full height" in reason for reason in report.failures.values())
    assert len(report.failures) == 3


def test_the_per_window_rule_expects_windows_of_one_width(project: Project) -> None:
    views = "{width: 64, stride: 32, additional: [{width: 128, stride: 64}]}"
    change = f"sam.views={views}", f"teacher.views={views}"
    precompute(project.manifest(), project.config(*change))
    report = fuse(project.manifest(), project.config(*change, "fusion.rule=paper"))
    assert len(report.failures) == 3
    reasons = set(report.failures.values())
    assert all("found windows [64, 128] wide; the per-window rule expects windows of one width" in r for r in reasons)


def test_circular_padding_keeps_the_object_on_the_seam_whole(project: Project) -> None:
    image = np.full((64, 256, 3), 60, np.uint8)
    image[20:40, :12] = image[20:40, -12:] = (200, 40, 40)
    project.add_image("seam.png", image)
    config = project.config(f"sam.views={PADDED}")
    precompute(project.manifest(), config)
    from pipeline.cache.groups import read_mask_sets

    key = config.artefacts(project.manifest().preprocessing).key("masks")
    masks = read_mask_sets(Cache(config.cache, "toy").artefact("masks", key).read("seam"), [(64, 256)])[0]
    truth = image[..., 0] == 200
    assert any(
        (mask & truth).sum() / (mask | truth).sum() > 0.8 for mask in masks
    )  # felzenszwalb makes segments of its edges
