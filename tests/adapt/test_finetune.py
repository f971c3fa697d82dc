"""The losses of TA adaptation by hand, and that a few steps lower them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window
from pipeline.models import losses
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from stages.adapt.finetune import crop_to_overlap, finetune, neighbouring_windows, pair_losses
from stages.adapt.settings import AdaptSettings
from tests.models import tiny_teacher
from tests.train.helpers import MemoryReader

NORMALIZATION = Normalization(mean=(127.0, 127.0, 127.0), std=(60.0, 60.0, 60.0))
SETTINGS = ViewSettings(width=32, stride=16)
VIEWS = make_views(SETTINGS, 32, 64)
PAIRS = neighbouring_windows(SETTINGS, 32, 64)


def test_consistency_is_the_symmetric_divergence_and_zero_at_equality() -> None:
    first, second = torch.randn(2, 1, 5, 3, 4)
    p, q = first.softmax(1), second.softmax(1)
    by_hand = (p * (p / q).log()).sum(1).mean() + (q * (q / p).log()).sum(1).mean()
    torch.testing.assert_close(losses.consistency_loss(first, second), by_hand)
    equal = first.clone().requires_grad_()
    loss = losses.consistency_loss(equal, first + 3)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert equal.grad is not None
    assert equal.grad.abs().max() < 1e-6


def test_neighbours_wrap_across_the_seam() -> None:
    assert {(a.x0, b.x0) for a, b in PAIRS} == {(0, 16), (16, 32), (32, 48), (48, 0)}
    with pytest.raises(UserError, match="overlapping windows"):
        neighbouring_windows(ViewSettings(width=32, stride=32), 32, 64)


@given(st.integers(0, 15), st.integers(1, 7))
def test_overlap_is_the_shared_columns(start: int, cells: int) -> None:
    """Logits that hold the number of their column on the panorama agree on the overlap, across the seam too."""
    pair = Window(0, 4 * start, 8, 32), Window(0, (4 * start + 4 * cells) % 64, 8, 32)
    first, second = (torch.from_numpy(window.columns(64)[::4].copy())[None, None] for window in pair)
    a, b = crop_to_overlap(first, second, pair, 64)
    assert a.shape[-1] == 8 - cells
    assert torch.equal(a, b)


@pytest.mark.parametrize(("columns", "shift"), [(12, 16), (10, 16), (24, 4), (32, 5)])
def test_overlap_of_a_scaled_ta_is_the_shared_columns_too(columns: int, shift: int) -> None:
    """A TA that sees windows enlarged has more cells a window than its stride says."""
    pair = Window(0, 48, 8, 32), Window(0, (48 + shift) % 64, 8, 32)
    place = (torch.arange(columns) * 32 / columns)[None, None]
    a, b = crop_to_overlap(48 + place, 48 + shift + place, pair, 64)
    assert a.shape[-1] == columns * (32 - shift) // 32
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("columns", [8, 10, 12])
def test_every_pair_has_its_consistency(columns: int) -> None:
    """Also where the overlap is no whole number of cells: two views that see the same everywhere agree."""
    reader = MemoryReader()
    fused = reader.fused(reader.ids[0])
    settings = AdaptSettings(ensemble=0, confident=0)
    for shift in (5, 6, 16):
        pair = Window(0, 0, 32, 32), Window(0, shift, 32, 32)
        same = torch.arange(4.0).reshape(1, 4, 1, 1).expand(2, 4, columns, columns)
        (term,) = pair_losses(same, fused, pair, settings, 255).values()
        assert term.item() == pytest.approx(0, abs=1e-6)
        other = torch.cat([same[:1], same[1:].flip(1)])
        (term,) = pair_losses(other, fused, pair, settings, 255).values()
        assert term.item() > 0.01


def test_overlaps_that_are_no_whole_cells_have_no_consistency() -> None:
    a, b = crop_to_overlap(
        torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8), (Window(0, 0, 8, 32), Window(0, 6, 8, 32)), 64
    )
    assert a.numel() == b.numel() == 0


def test_terms_are_those_of_the_whole_panorama_cut_out() -> None:
    reader, pair = MemoryReader(), PAIRS[-1]
    assert (pair[0].x0, pair[1].x0) == (48, 0), "across the seam"
    fused = reader.fused("pano/0.png")
    logits = torch.randn(2, 4, 8, 8)
    settings = AdaptSettings(ensemble=2.0, confident=3.0, consistency=4.0)
    terms = pair_losses(logits, fused, pair, settings, 255)
    full = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    stitched = losses.upsample_log_probs(torch.from_numpy(fused.stitched)[None], (32, 64), cyclic=True)
    label = torch.from_numpy(fused.label)[None].long()
    ensemble = losses.ensemble_probs(stitched, label, torch.from_numpy(fused.gate)[None] / 255)
    columns = [window.columns(64) for window in pair]
    labels = torch.cat([label[..., x] for x in columns])
    targets = torch.cat([ensemble[..., x] for x in columns])
    weights = torch.cat([torch.from_numpy(fused.weight)[None, :, x] / 255 for x in columns])
    expected = {
        "ensemble": 2 * losses.soft_cross_entropy(full, targets, labels != 255),
        "confident": 3 * losses.hard_cross_entropy(full, labels, weights),
        "consistency": 4 * losses.consistency_loss(logits[:1, ..., 4:], logits[1:, ..., :4]),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    off = AdaptSettings(ensemble=0, confident=0)
    assert set(pair_losses(logits, fused, pair, off, 255)) == {"consistency"}


def test_a_rule_that_works_per_window_teaches_each_window_its_own_labels() -> None:
    """`CE(E_i, S_i)` and `CE(E_H,i, S_i)` of each window (paper)."""
    rng, pair = np.random.default_rng(0), PAIRS[-1]
    label = rng.integers(4, size=(len(VIEWS), 32, 32)).astype(np.uint8)
    weight = rng.integers(2, size=label.shape).astype(np.uint8) * 255
    fused = MemoryReader().fused("pano/0.png")
    hard = {
        "windows": tuple(VIEWS),
        "window_label": label,
        "window_weight": weight,
        "gate": np.full_like(fused.label, 255),
    }
    logits = torch.randn(2, 4, 8, 8)
    terms = pair_losses(logits, dataclasses.replace(fused, **hard), pair, AdaptSettings(consistency=0), 255)
    full = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    own = [list(VIEWS).index(window) for window in pair]
    labels, weights = torch.from_numpy(label[own]).long(), torch.from_numpy(weight[own]) / 255
    torch.testing.assert_close(terms["ensemble"], losses.hard_cross_entropy(full, labels))
    torch.testing.assert_close(terms["confident"], losses.hard_cross_entropy(full, labels, weights))


def test_all_ignored_costs_nothing() -> None:
    fused = MemoryReader().fused("pano/0.png")
    nothing = dataclasses.replace(fused, label=np.full_like(fused.label, 255))
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    terms = pair_losses(logits, nothing, PAIRS[0], AdaptSettings(consistency=0), 255)
    total = torch.stack(list(terms.values())).sum()
    assert total == 0
    total.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_a_scaled_ta_is_trained_on_enlarged_views() -> None:
    views = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), dtype=np.uint8)
    assert Network(tiny_teacher(), NORMALIZATION, scale=1.5).inputs(views, "cpu").shape == (2, 3, 6, 12)


def trained(
    settings: AdaptSettings, reader: MemoryReader | None = None, state: Path | None = None
) -> tuple[torch.nn.Module, dict[str, list[float]]]:
    torch.manual_seed(0)
    context = torch.nn.Conv2d(4, 4, 3, padding=1)  # so that two windows see a pixel differently
    model = torch.nn.Sequential(tiny_teacher(classes=4), context).eval()
    terms = finetune(
        Network(model, NORMALIZATION),
        reader or MemoryReader(),
        SETTINGS,
        settings,
        ignore_index=255,
        device="cpu",
        progress=SilentProgress(),
        state=state,
    )
    return model, terms


class Killed(Exception):
    pass


class KillingReader(MemoryReader):
    """Gives so many panoramas, then dies."""

    left = 0

    def image(self, image_id: str) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().image(image_id)


@pytest.mark.parametrize("after", [7, 12, 13])
def test_a_killed_training_goes_on_to_the_same_ta(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.adapt.finetune.SAVE_STEPS", 3)
    settings, state = AdaptSettings(iterations=8, learning_rate=0.02), tmp_path / "run" / "training.pt"
    whole, terms = trained(settings)
    reader = KillingReader()
    reader.left = after
    with pytest.raises(Killed):
        trained(settings, reader, state)
    reader.left = 2 * (8 - after // 2 // 3 * 3)
    model, resumed = trained(settings, reader, state)
    assert reader.left == 0, "the steps that were saved are not done again"
    assert resumed == terms
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    again, resumed = trained(settings, reader, state)
    assert (reader.left, resumed) == (0, terms), "the last step is saved too: what follows it may be killed"
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("term", ["ensemble", "confident", "consistency"])
def test_some_steps_lower_each_term(term: str) -> None:
    alone = {name: float(name == term) for name in ("ensemble", "confident", "consistency")}
    _, terms = trained(AdaptSettings(iterations=40, learning_rate=0.02, **alone))
    first, last = terms[term]
    assert last < 0.9 * first


def test_the_same_seed_gives_the_same_ta() -> None:
    settings = AdaptSettings(iterations=4, learning_rate=0.02)
    weights = [trained(settings)[0][0].weight, trained(settings)[0][0].weight, tiny_teacher(classes=4).weight]  # type: ignore[index]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign", "history", "model", "step"])
def test_a_damaged_state_begins_the_round_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.adapt.finetune.SAVE_STEPS", 2)
    settings, state = AdaptSettings(iterations=4, learning_rate=0.02), tmp_path / "training.pt"
    whole, terms = trained(settings, state=state)
    data, content = state.read_bytes(), torch.load(state, weights_only=True)
    if damage in ("cut", "text", "empty"):
        state.write_bytes({"cut": data[: len(data) // 2], "text": b"no checkpoint", "empty": b""}[damage])
    else:
        changes = {
            "foreign": {"decay": {"x": object.__doc__}},
            "history": {"history": [{"ensemble": "x"}]},
            "model": {"model": {"weight": torch.zeros(2)}},
            "step": {"history": content["history"][:1]},
        }
        torch.save({**content, **changes[damage]}, state)
    notes: list[str] = []
    monkeypatch.setattr(SilentProgress, "note", lambda _, text: notes.append(text))
    model, again = trained(settings, state=state)
    assert again == terms
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    assert len(notes) == 1
    assert notes[0].startswith(f"{state}: cannot be read (")
    assert notes[0].endswith("); the round begins anew")
