"""Batch-norm statistics: measured, mixed, and as a round of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from pipeline.models.weights import load_state_dict
from stages.adapt.stage import adapt
from stages.adapt.statistics import (
    BATCHES,
    batch_norm_layers,
    draw_batches,
    measure_statistics,
    mix_statistics,
    stored_statistics,
)
from stages.precompute.stage import precompute
from tests.adapt.test_rounds import in_process
from tests.caches import finished
from tests.conftest import Project
from tests.models import batch_norm_teacher

BATCH_NORM = "teacher.model.builder=tests.models:batch_norm_teacher"
ALONE = (BATCH_NORM, "adapt.scale=1")
NORMALIZATION = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    return layers.eval()


def views(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (4, 12, 16, 3)).astype(np.uint8) for _ in range(count)]


def test_statistics_are_those_of_a_training_pass_and_the_model_stays() -> None:
    model, reference = small_network(), small_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = measure_statistics(Network(model, NORMALIZATION), iter(views()), "cpu", SilentProgress())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    batch = torch.from_numpy(views()[0]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        assert torch.equal(model(batch), reference(batch)), "the network computes as before"
    reference.train()
    inputs: dict[str, list[torch.Tensor]] = {"1": [], "4": []}
    for name in inputs:
        reference[int(name)].register_forward_pre_hook(lambda _, x, name=name: inputs[name].append(x[0]))
    for batch in views():
        reference(torch.from_numpy(batch).permute(0, 3, 1, 2).float())
    for name, values in inputs.items():
        pixels = torch.cat(values).double().movedim(1, 0).flatten(1)
        torch.testing.assert_close(measured[name][0], pixels.mean(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(measured[name][1], pixels.var(1, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_mixture_is_linear_in_the_share(share: float) -> None:
    model = small_network()
    target = {"1": (torch.full((4,), 8.0).double(), torch.full((4,), 5.0).double())}
    mix_statistics(model, stored_statistics(model), target, share)
    layer = model[1]
    assert torch.allclose(layer.running_mean, torch.full((4,), 8 * share))
    assert torch.allclose(layer.running_var, torch.full((4,), 1 + 4 * share))
    assert torch.equal(model[4].running_var, torch.ones(5)), "a layer that was not measured stays"


def test_layers_without_stored_statistics_are_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.LayerNorm(3), nn.BatchNorm2d(3))
    assert list(batch_norm_layers(model)) == ["2"]


def test_batches_are_the_same_for_a_seed(project: Project) -> None:
    manifest, config = project.manifest(), project.config()
    paths = [record.path for record in manifest.images]

    def draw(seed: int) -> list[np.ndarray]:
        return list(draw_batches(paths, manifest.preprocessing, config.teacher.views, seed))

    first, again, other = draw(0), draw(0), draw(1)
    assert len(first) == BATCHES
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_statistics_alone_are_a_round_with_its_parent(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config(*ALONE, "adapt.statistics=0.5")
    precompute(manifest, config, only=["sam", "masks"])
    (made,) = adapt(manifest, config, 0, tmp_path / "work", in_process)
    parent = config.artefacts(manifest.preprocessing).key("teacher")
    attributes = Cache(config.cache, "toy").artefact("teacher", made.teacher).attributes()
    assert attributes["adapted_from"] == {"teacher": parent, "statistics": 0.5, "scale": 1.0, "seed": 0}
    assert len(finished(Cache(config.cache, "toy").artefact("fused", made.fused))) == 3
    state, _ = load_state_dict(made.config.with_name("ta.pth"))
    source = batch_norm_teacher().state_dict()
    changed = {name for name in state if not torch.equal(state[name], source[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var")) for name in changed)
    weights = made.config.with_name("ta.pth").stat().st_mtime_ns
    assert adapt(manifest, config, 0, tmp_path / "work", in_process) == [made]
    assert made.config.with_name("ta.pth").stat().st_mtime_ns == weights, "what is done is not done again"
    other = adapt(manifest, project.config(*ALONE, "adapt.statistics=0.25"), 0, tmp_path / "work", in_process)
    assert other[0].teacher != made.teacher


def test_training_follows_the_statistics_once(project: Project, tmp_path: Path) -> None:
    short = (*ALONE, "adapt.iterations=2", "adapt.learning_rate=0.01", "adapt.statistics=0.5")
    manifest, config = project.manifest(), project.config(*short)
    precompute(manifest, config, only=["sam", "masks"])
    zero, one = adapt(manifest, config, 1, tmp_path / "work", in_process)
    assert (zero.number, one.number) == (0, 1)
    assert one.parent_teacher == zero.teacher
    (alone,) = adapt(manifest, config, 0, tmp_path / "work", in_process)
    assert alone == zero


def test_nothing_to_do_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapt.statistics 0 and adapt.scale 1 change nothing; expected rounds, or"):
        adapt(project.manifest(), project.config("adapt.preset=paper"), 0, tmp_path / "work", in_process)


def test_statistics_need_no_trainable_settings(project: Project, tmp_path: Path) -> None:
    """Another label space of the ensemble is no obstacle: nothing is trained."""
    changes = (*ALONE, "adapt.statistics=0.5", "fusion.label_space=densepass13")
    manifest, config = project.manifest(), project.config(*changes)
    precompute(manifest, config, only=["sam", "masks"])
    assert len(adapt(manifest, config, 0, tmp_path / "work", in_process)) == 1
    with pytest.raises(UserError, match="expected the TA's own to train it on"):
        adapt(manifest, config, 1, tmp_path / "work", in_process)


def test_unreadable_panoramas_are_left_out(project: Project) -> None:
    manifest, config = project.manifest(), project.config()
    paths = [record.path for record in manifest.images]
    paths[0].write_bytes(b"no image")
    batches = list(draw_batches(paths, manifest.preprocessing, config.teacher.views, 0))
    assert len(batches) == BATCHES
    assert min(len(batch) for batch in batches) < max(len(batch) for batch in batches)
    for path in paths:
        path.write_bytes(b"")
    network = Network(small_network(), NORMALIZATION)
    nothing = draw_batches(paths, manifest.preprocessing, config.teacher.views, 0)
    with pytest.raises(UserError, match=r"found no panorama that can be read in train\.split"):
        measure_statistics(network, nothing, "cpu", SilentProgress())
