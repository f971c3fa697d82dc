"""Adaptation rounds over a cache: what they make, what they record, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.models.weights import load_state_dict
from stages.adapt import stage
from stages.adapt.stage import Round, adapt, best_round
from stages.config import load_config
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.caches import finished
from tests.conftest import Project
from tests.test_end_to_end import last_line, run


def snapshot(cache: Path, kinds: tuple[str, ...]) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for k in kinds for p in (cache / k).rglob("*") if p.is_file()}


def in_process(stage: str, options: list[str]) -> None:
    """The stages' functions in this process: what the command runs in processes of their own."""
    config = load_config(Path(options[options.index("--config") + 1]))
    manifest = Project(Path(options[1]).parent).manifest()
    if stage == "precompute":
        assert options[-2:] == ["--only", "teacher"]
        precompute(manifest, config, only=["teacher"])
    else:
        fuse(manifest, config)


SHORT = ("adapt.preset=paper", "adapt.iterations=3", "adapt.learning_rate=0.01")


def test_rounds_make_artefacts_of_their_own_and_leave_the_masks_alone(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, config = project.manifest(), project.config(*SHORT)
    precompute(manifest, config)
    fuse(manifest, config)
    cache = tmp_path / "cache" / "toy"
    before = snapshot(cache, ("sam", "masks", "teacher", "fused"))
    rounds = adapt(manifest, config, 2, tmp_path / "work", in_process)
    assert before.items() <= snapshot(cache, ("sam", "masks", "teacher", "fused")).items(), "nothing was touched"
    for kind, count in {"sam": 1, "masks": 1, "teacher": 3, "fused": 3}.items():
        assert len(list((cache / kind).iterdir())) == count
    parent = config.artefacts(manifest.preprocessing)
    chain = [(parent.key("teacher"), parent.key("fused")), *((r.teacher, r.fused) for r in rounds)]
    assert len(set(chain)) == 3
    for (teacher, fused), made in zip(chain, rounds, strict=False):
        attributes = Cache(config.cache, "toy").artefact("teacher", made.teacher).attributes()
        assert attributes["adapted_from"]["teacher"] == teacher == made.parent_teacher
        assert attributes["adapted_from"]["fused"] == fused == made.parent_fused
        assert attributes["adapted_from"]["adapt"]["iterations"] == 3
        upstream = Cache(config.cache, "toy").artefact("fused", made.fused).attributes()["upstream"]
        assert upstream["teacher"] == made.teacher
        assert upstream["sam"] == parent.key("sam"), "the masks are those of before"
        assert json.loads((made.config.parent / "round.json").read_text())["teacher"] == made.teacher
        assert len(finished(Cache(config.cache, "toy").artefact("fused", made.fused))) == 3
    after = snapshot(tmp_path, ("work",))
    assert {p.name for p in after} == {"ta.pth", "losses.json", "config.yaml", "round.json"}
    weights = {p: v for p, v in after.items() if p.name == "ta.pth"}
    with monkeypatch.context() as patch:
        patch.setattr(stage, "expected_scores", None)  # nothing is scored again
        assert adapt(manifest, config, 2, tmp_path / "work", in_process) == rounds, "what is done is not done again"
    assert weights.items() <= snapshot(tmp_path, ("work",)).items()


def test_what_cannot_be_adapted_is_refused_before_any_work(project: Project, tmp_path: Path) -> None:
    manifest = project.manifest()
    for changes, message in (
        ((), "no such artefact"),
        (("fusion.label_space=densepass13",), "expected the TA's own to train it on"),
        (("teacher.artefact=other",), "needs the TA itself"),
    ):
        with pytest.raises(UserError, match=message):
            adapt(manifest, project.config(*changes), 1, tmp_path / "work", in_process)
    assert not (tmp_path / "work").exists()
    views = "teacher.views={kind: whole}"
    precompute(manifest, project.config(views, "fusion.rule=ta"), only=["teacher"])
    fuse(manifest, project.config(views, "fusion.rule=ta"))
    with pytest.raises(UserError, match="needs overlapping windows"):
        adapt(manifest, project.config(views, "fusion.rule=ta"), 1, tmp_path / "work", in_process)


def test_a_ta_of_hugging_face_is_adapted_and_used(project: Project, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.SegformerConfig(
        num_labels=19, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )  # fmt: skip
    settings.save_pretrained(tmp_path / "hf")
    torch.manual_seed(0)
    weights = transformers.SegformerForSemanticSegmentation(settings).state_dict()
    torch.save(weights, tmp_path / "hf" / "ta.pth")
    model = f"{{kind: huggingface, config: {tmp_path}/hf/config.json, checkpoint: {tmp_path}/hf/ta.pth}}"
    manifest, config = project.manifest(), project.config(*SHORT, f"teacher.model={model}")
    precompute(manifest, config)
    fuse(manifest, config)
    (made,) = adapt(manifest, config, 1, tmp_path / "work", in_process)
    adapted = load_state_dict(made.config.parent / "ta.pth")[0]
    assert adapted.keys() == weights.keys()
    assert any(not torch.equal(adapted[name], weights[name]) for name in weights)
    assert len(finished(Cache(config.cache, "toy").artefact("teacher", made.teacher))) == 3


@pytest.mark.slow
def test_the_command_with_an_mmsegmentation_ta(project: Project, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    config = root / "mmseg_configs" / "teachers" / "demo_segformer.py"
    weights = root / "demo" / "weights" / "ta_segformer.safetensors"
    model = f"teacher.model={{kind: mmseg, config: {config}, checkpoint: {weights}}}"
    options = [*project.arguments(), "--set", model]
    run("precompute", *options)
    run("fuse", *options)
    cache = tmp_path / "cache" / "toy"
    before = snapshot(cache, ("sam", "masks", "teacher", "fused"))
    more = ["--work-dir", tmp_path / "work", *(word for s in SHORT for word in ("--set", s))]
    done = last_line(run("adapt", *options, "--rounds", "1", *more))
    assert before.items() <= snapshot(cache, ("sam", "masks", "teacher", "fused")).items()
    assert len(done["rounds"]) == 1
    assert last_line(run("fuse", *project.arguments()[:2], "--config", done["rounds"][0]["config"]))["computed"] == 0


def test_auto_ends_when_a_round_gains_little(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, config = project.manifest(), project.config(*SHORT)
    precompute(manifest, config)
    fuse(manifest, config)
    for gain, rounds in ((-100.0, stage.MAX_ROUNDS), (100.0, 2)):
        monkeypatch.setattr(stage, "LEAST_GAIN", gain)
        made = adapt(manifest, config, "auto", tmp_path / "work", in_process)
        assert [r.number for r in made] == list(range(1, rounds + 1))
        assert best_round(made).expected == max(r.expected for r in made)


def test_rounds_stay_near_the_weights_before_the_first(project: Project, tmp_path: Path) -> None:
    """With an anchor of a half, a round moves the TA by half of what it trains, and further rounds add less."""
    manifest, plain = project.manifest(), project.config(*SHORT)
    precompute(manifest, plain)
    fuse(manifest, plain)
    before = plain.teacher.model.network("cpu").model.state_dict()

    def moved(made: Round) -> float:
        after = load_state_dict(made.config.with_name("ta.pth"))[0]
        return float(sum((after[name] - before[name]).float().norm() for name in before))

    (free,) = adapt(manifest, plain, 1, tmp_path / "work", in_process)
    anchored = project.config(*SHORT, "adapt.anchor=0.5")
    rounds = adapt(manifest, anchored, 4, tmp_path / "work", in_process)
    assert moved(rounds[0]) == pytest.approx(0.5 * moved(free), rel=1e-4)
    assert moved(rounds[-1]) < 1.2 * moved(free)


@pytest.mark.slow
def test_two_processes_train_the_ta_as_one(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config(*SHORT, "adapt.batch_size=3")
    precompute(manifest, config)
    fuse(manifest, config)
    (alone,) = adapt(manifest, config, 1, tmp_path / "alone", in_process)
    (both,) = adapt(manifest, config, 1, tmp_path / "both", in_process, processes=2)
    before = config.teacher.model.network("cpu").model.state_dict()
    expected, found = (load_state_dict(made.config.with_name("ta.pth"))[0] for made in (alone, both))
    assert any(not torch.allclose(expected[name], before[name], atol=1e-4) for name in before), "something was learned"
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    for term, values in alone.losses.items():
        assert both.losses[term] == pytest.approx(values, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_an_error_in_one_of_several_processes_is_one_sentence(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config("adapt.preset=paper", "adapt.learning_rate=1e30")
    precompute(manifest, config)
    fuse(manifest, config)
    with pytest.raises(UserError, match=r"adapt: the loss became .* expected a smaller adapt.learning_rate"):
        adapt(manifest, config, 1, tmp_path / "work", in_process, processes=2)
