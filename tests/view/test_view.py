"""`view`: one panel for each artefact in the cache."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import UserError
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.view.picture import draw_panorama
from tests.conftest import Project


def test_a_picture_has_a_panel_for_each_artefact_in_the_cache(project: Project) -> None:
    manifest, config = project.manifest(), project.config("fusion.rule=paper")
    heights = [draw_panorama(manifest, config, "p000").height]
    precompute(manifest, config)
    heights.append(draw_panorama(manifest, config, "p000").height)
    fuse(manifest, config)
    heights.append(draw_panorama(manifest, config, "p000").height)
    panel = 64 + 18
    # masks and their boundary; TA, ensemble, refined boundary and weight map
    assert np.diff(heights).tolist() == [2 * panel, 4 * panel]


def test_an_unknown_image_is_refused(project: Project) -> None:
    with pytest.raises(UserError, match="has no image 'p9'; expected an id such as p000, p001, p002"):
        draw_panorama(project.manifest(), project.config(), "p9")
