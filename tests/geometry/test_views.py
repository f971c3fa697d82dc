"""Views of a panorama that follow from the settings."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.core.settings import OldNameWarning
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window


def test_densepass_has_eight_windows() -> None:
    views = make_views(ViewSettings(), 400, 2048)
    assert [view.x0 for view in views] == list(range(0, 2048, 256))
    assert {(view.height, view.width) for view in views} == {(400, 512)}


def test_the_full_panorama_is_one_view() -> None:
    assert make_views(ViewSettings(kind="whole"), 5, 16) == (Window(0, 0, 5, 16),)
    assert make_views(ViewSettings(width=64, stride=64), 5, 16) == (Window(0, 0, 5, 16),)


def test_windows_lower_than_the_panorama_reach_its_bottom() -> None:
    views = make_views(ViewSettings(width=512, stride=256, height=160), 400, 2048)
    assert sorted({view.y0 for view in views}) == [0, 80, 160, 240]
    with pytest.raises(UserError, match="expected both to be multiples of 8"):
        make_views(ViewSettings(width=512, stride=256, height=150), 400, 2048)


def test_a_padded_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected kind whole"):
        ViewSettings(padding=8)
    with pytest.raises(ValidationError, match="multiple of 8"):
        ViewSettings(kind="whole", padding=5)


def test_uneven_strides_give_evenly_spaced_windows_on_the_grid() -> None:
    views = make_views(ViewSettings(width=512, stride=300), 400, 2048, align=8)
    gaps = np.diff([*(view.x0 for view in views), 2048])
    assert len(views) == 7
    assert gaps.max() - gaps.min() <= 8
    assert all(view.x0 % 8 == 0 for view in views)


def test_old_names_of_settings_are_read_and_stay_in_keys() -> None:
    old = {"kind": "perspective", "around": 4, "also": [{"width": 64, "stride": 32}]}
    with pytest.warns(OldNameWarning, match="is now named"):
        settings = ViewSettings.model_validate(old)
    assert (settings.views_per_pitch, settings.additional) == (4, (ViewSettings(width=64, stride=32),))
    assert settings.key_parts() == old


def test_gaps_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave gaps"):
        ViewSettings(width=64, stride=65)
    with pytest.raises(UserError, match="leave gaps"):
        make_views(ViewSettings(width=20, stride=20), 4, 100, align=32)
