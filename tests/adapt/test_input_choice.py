"""The scale of the TA's input and the share of its statistics, chosen without labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.cache import Cache
from pipeline.core.progress import SilentProgress
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from pipeline.models.weights import load_state_dict
from stages.adapt.input_choice import SCALES, Choice, choose_input, mean_entropy, search_line
from stages.adapt.stage import adapt
from stages.adapt.statistics import stored_statistics
from stages.config import load_config
from stages.precompute.stage import precompute
from tests.adapt.test_rounds import in_process
from tests.adapt.test_statistics import BATCH_NORM, NORMALIZATION
from tests.conftest import Project
from tests.models import batch_norm_teacher


class Notes(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_share_follows_the_shift() -> None:
    """A network that separates two classes of pixels is surest with statistics of the images that it gets."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[4.0, 4, 4], [-4, -4, -4]])[:, :, None, None])
        model[1].bias.zero_()
    rng = np.random.default_rng(0)
    images = [rng.choice([90, 110], (2, 8, 8, 1)).repeat(3, axis=-1).astype(np.uint8) for _ in range(4)]
    network = Network(model, NORMALIZATION)

    def best(mean: float, deviation: float) -> float:
        model[0].running_mean.fill_(mean)
        model[0].running_var.fill_(deviation**2)
        before = stored_statistics(model)
        choice, tried = choose_input(network, images, 1.0, "auto", "cpu", SilentProgress())
        after = stored_statistics(model)
        assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], after[name], strict=True))
        assert choice == min(tried, key=lambda other: other.entropy)
        return choice.share

    assert best(100, 5) == 0, "these statistics separate the classes more sharply than the images' own"
    assert best(100, 80) == 1, "the source has more contrast"


class Blocks(nn.Module):
    """Knows stripes of one width: sure of a class where its kernel sees two of them, at its own scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        stripes = torch.tensor([1.0] * width + [-1.0] * width)
        self.register_buffer("kernel", stripes.expand(1, 3, 2 * width, 2 * width) / (12 * width * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        response = nn.functional.conv2d(x, self.kernel)
        return torch.cat([response, -response], dim=1)


@pytest.mark.parametrize(("stripe", "least", "largest"), [(8, 0.5, 0.75), (3, 1.125, 2.0)])
def test_the_scale_follows_the_size_of_things(stripe: int, least: float, largest: float) -> None:
    """A network for stripes of 4 pixels is surest about other ones if it sees the image at another size."""
    row = np.where(np.arange(96) // stripe % 2, 255, 0).astype(np.uint8)
    image = row[None, None, :, None].repeat(96, axis=1).repeat(3, axis=-1)
    network = Network(Blocks(4).eval(), Normalization(mean=(127.5,) * 3, std=(127.5,) * 3))
    choice, tried = choose_input(network, [image], "auto", "auto", "cpu", SilentProgress())
    assert least <= choice.scale <= largest
    assert {other.share for other in tried} == {0.0}, "there are no statistics to mix"
    assert mean_entropy(network, [image], "cpu") == pytest.approx(tried[0].entropy)


def test_the_search_goes_where_it_improves() -> None:
    def searched(best: float) -> tuple[float, list[float]]:
        seen = []

        def score(scale: float) -> Choice:
            seen.append(scale)
            return Choice(scale, 0.0, abs(scale - best))

        return search_line(SCALES, 1.0, score).scale, seen

    assert searched(0.75) == (0.75, [1.0, 0.9375, 0.875, 0.75, 0.625])
    assert searched(1.25) == (1.25, [1.0, 0.9375, 1.125, 1.25, 1.5])
    assert searched(1.0) == (1.0, [1.0, 0.9375, 1.125])
    assert searched(3.0)[0] == 2.0
    assert searched(0.1)[0] == 0.5


def test_a_given_scale_is_a_round_without_new_weights(project: Project, tmp_path: Path) -> None:
    manifest = project.manifest()
    config = project.config("adapt.statistics=0.5", "adapt.scale=2", "teacher.model.scale=0.5")
    precompute(manifest, config, only=["sam", "masks"])
    progress = Notes()
    (made,) = adapt(manifest, config, 0, tmp_path / "work", in_process, progress=progress)
    assert progress.notes == ["the TA has no batch norm: adapt.statistics has no effect"]
    adapted = load_config(made.config)
    assert adapted.teacher.model.scale == 1.0
    assert adapted.teacher.model.checkpoint == config.teacher.model.checkpoint
    assert not made.config.with_name("ta.pth").exists()
    plain = project.config().artefacts(manifest.preprocessing).key("teacher")
    assert made.teacher == plain, "the TA at scale 1 is computed once"


def test_the_choice_is_recorded_and_not_made_again(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config(BATCH_NORM)
    precompute(manifest, config, only=["sam", "masks"])
    made = adapt(manifest, config, 0, tmp_path / "work", in_process)
    (report,) = (tmp_path / "work").rglob("choice.json")
    data = json.loads(report.read_text())
    assert data["chosen"]["entropy"] == min(other["entropy"] for other in data["tried"])
    changed = (data["chosen"]["scale"], data["chosen"]["share"]) != (1, 0)
    assert len(made) == changed
    written = report.stat().st_mtime_ns
    assert adapt(manifest, config, 0, tmp_path / "work", in_process) == made
    assert report.stat().st_mtime_ns == written
    if data["chosen"]["share"]:
        state = load_state_dict(made[0].config.with_name("ta.pth"))[0]
        assert state.keys() == batch_norm_teacher().state_dict().keys()
    for made_round in made:
        assert Cache(config.cache, "toy").artefact("teacher", made_round.teacher).attributes()["adapted_from"]
