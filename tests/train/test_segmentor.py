"""The student's terms: which are on, what they add up to, and plain supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from pipeline.core.errors import UserError
from pipeline.data.samples import FusedSample
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.models import losses
from stages.train.configs import student_config
from stages.train.dataset import PseudoLabelDataset
from stages.train.segmentor import MKASegmentor, MKATerms, Term, distillation_loss
from stages.train.transforms import MirrorPanorama, PackMKAInputs, RandomScaleCrop
from tests.train.helpers import CLASSES, SPACE, TINY_STUDENT, MemoryReader

TERMS = ("whole", "ensemble", "confident", "boundary")
OFF = dict.fromkeys(TERMS, 0)


def build(mka: Mapping[str, Any] | None = None, **overrides: Any) -> MKASegmentor:
    init_default_scope("mmseg")
    torch.manual_seed(0)
    cfg = Config.fromfile(student_config("goodsam_m"))
    cfg.merge_from_dict({k: v for k, v in TINY_STUDENT.items() if k.startswith("model.")})
    cfg.merge_from_dict({"model.decode_head.num_classes": len(CLASSES), "model.backbone.drop_path_rate": 0.0})
    cfg.merge_from_dict({"model.decode_head.dropout_ratio": 0.0, **overrides})
    cfg.model.mka = {**OFF, **(mka or {})}
    return MODELS.build(cfg.model)


def batch(
    count: int = 2, transforms: Any = (), reader: type[MemoryReader] = MemoryReader, **options: Any
) -> dict[str, Any]:
    dataset = PseudoLabelDataset(reader(**options), SPACE)
    packed = []
    for image_id in dataset.ids[:count]:
        results = dataset.load(image_id)
        for transform in transforms:
            results = transform(results)
        packed.append(PackMKAInputs()(results))
    return {key: [entry[key] for entry in packed] for key in ("inputs", "data_samples")}


def loss_of(model: MKASegmentor, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    return model(**model.data_preprocessor(data, True), mode="loss")


def logits_of(model: MKASegmentor, data: dict[str, Any]) -> torch.Tensor:
    inputs = model.data_preprocessor(data, True)["inputs"]
    return model.encode_decode(inputs, [{"img_shape": (32, 64), "pad_shape": (32, 64)}])


@pytest.mark.parametrize("name", TERMS)
def test_each_term_can_be_switched_on_alone_and_scaled(name: str) -> None:
    model = build({name: 1.0})
    found = loss_of(model, batch())
    assert set(found) == {f"decode.loss_{name}", "decode.pseudo_label_acc"}
    model.terms = MKATerms.model_validate({n: 2.5 if n == name else 0 for n in TERMS})
    torch.testing.assert_close(loss_of(model, batch())[f"decode.loss_{name}"], 2.5 * found[f"decode.loss_{name}"])


def test_terms_are_those_of_the_losses_module() -> None:
    model = build(dict.fromkeys(TERMS, 1.0)).eval()
    data = batch()
    found = loss_of(model, data)
    logits = logits_of(model, data)
    reader = MemoryReader()
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in TERMS}
    for i, image_id in enumerate(reader.ids[:2]):
        sample, p = reader.fused(image_id), logits[i : i + 1]
        stitched = losses.upsample_log_probs(torch.from_numpy(sample.stitched)[None], (32, 64), cyclic=True)
        label = torch.from_numpy(sample.label)[None].long()
        gate, weight = (torch.from_numpy(a)[None] / 255 for a in (sample.gate, sample.weight))
        ensemble = losses.ensemble_probs(stitched, label, gate)
        expected["whole"].append(losses.soft_cross_entropy(p, stitched))
        expected["ensemble"].append(losses.soft_cross_entropy(p, ensemble, label != 255))
        expected["confident"].append(losses.hard_cross_entropy(p, label, weight))
        expected["boundary"].append(losses.boundary_loss(p.softmax(1), torch.from_numpy(sample.boundary)[None]))
    for name, values in expected.items():
        torch.testing.assert_close(found[f"decode.loss_{name}"], torch.stack(values).mean())
    known = np.stack([reader.fused(i).label for i in reader.ids[:2]])
    right = (logits.argmax(1).numpy() == known)[known != 255].mean()
    assert found["decode.pseudo_label_acc"] == pytest.approx(100 * right, rel=1e-5)


def test_plain_labels_give_the_ordinary_cross_entropy() -> None:
    model = build(dict.fromkeys(TERMS, 1.0)).eval()
    data = batch(supervised=True)
    found = loss_of(model, data)
    label = torch.cat([sample.gt_sem_seg.data for sample in data["data_samples"]])
    expected = torch.nn.functional.cross_entropy(logits_of(model, data), label, ignore_index=255)
    assert set(found) == {"decode.loss_label", "decode.pseudo_label_acc"}
    torch.testing.assert_close(found["decode.loss_label"], expected)


def test_a_sample_without_boundary_has_no_boundary_term() -> None:
    model, data = build({"boundary": 1.0, "whole": 1.0}), batch()
    for sample in data["data_samples"]:
        del sample.boundary
    assert set(loss_of(model, data)) == {"decode.loss_whole", "decode.pseudo_label_acc"}


def test_mirrored_sample_costs_a_mirrored_student_the_same() -> None:
    """A constant network commutes with mirroring, so every term must be that of the plain sample."""
    model = build(dict.fromkeys(TERMS, 1.0))
    torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
    straight, mirrored = loss_of(model, batch()), loss_of(model, batch(transforms=[MirrorPanorama(1.0)]))
    for name in TERMS:
        torch.testing.assert_close(straight[f"decode.loss_{name}"], mirrored[f"decode.loss_{name}"])


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0])
def test_scaled_crops_train(scale: float) -> None:
    np.random.seed(0)  # noqa: NPY002
    model = build(dict.fromkeys(TERMS, 1.0))
    transforms = [RandomScaleCrop((32, 48), (scale, scale)), MirrorPanorama()]
    found = loss_of(model, batch(transforms=transforms, height=64, width=128))
    total, _ = model.parse_losses(found)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.backbone.layers[0][0].projection.weight.grad.abs().max() > 0


def test_temperature_and_hard_targets() -> None:
    model, data = build({"whole": 1.0}).eval(), batch(count=1)
    logits = logits_of(model, data)
    stitched = losses.upsample_log_probs(data["data_samples"][0].stitched.data[None], (32, 64), cyclic=True)
    model.terms = MKATerms.model_validate({**OFF, "whole": {"temperature": 2.0}})
    soft = losses.soft_cross_entropy(logits / 2, losses.sharpen(stitched, 2.0)) * 4
    torch.testing.assert_close(loss_of(model, data)["decode.loss_whole"], soft)
    model.terms = MKATerms.model_validate({**OFF, "whole": {"hard": True}})
    hard = losses.hard_cross_entropy(logits, stitched.argmax(1))
    torch.testing.assert_close(loss_of(model, data)["decode.loss_whole"], hard)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("hard", [False, True])
def test_distillation_at_a_temperature(temperature: float, hard: bool) -> None:
    """Value and gradient: at equality a soft target costs its entropy and pulls nowhere, at every temperature."""
    target = torch.randn(1, 4, 6, 8).softmax(1)
    logits = target.log().requires_grad_()
    term = Term(weight=2.0, temperature=temperature, hard=hard)
    loss = distillation_loss(logits, target, term).mean() * term.factor
    soft = (target.log() / temperature).softmax(1)
    if hard:
        by_hand = torch.nn.functional.cross_entropy(target.log() / temperature, target.argmax(1))
    else:
        by_hand = -(soft * soft.log()).sum(1).mean()
    torch.testing.assert_close(loss, 2 * temperature**2 * by_hand)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().max() > 1e-4) == hard
    logits.grad = None
    keep = torch.zeros(1, 6, 8)
    keep[:, :2] = 1
    losses.weighted_mean(distillation_loss(logits, target.flip(1), term), keep).backward()
    assert logits.grad[:, :, 2:].abs().max() == 0, "what is ignored pulls nowhere"
    assert logits.grad[:, :, :2].abs().max() > 1e-4
    logits.grad = None
    nothing = losses.weighted_mean(distillation_loss(logits, target, term), torch.zeros(1, 6, 8))
    assert nothing == 0
    nothing.backward()
    assert logits.grad.abs().max() == 0


def test_terms_of_a_rolled_panorama_are_the_same() -> None:
    """Nothing treats the left or right edge as one: a student that rolls along costs the same (whole cells of S̄)."""
    model = build(dict.fromkeys(TERMS, 1.0))
    torch.nn.init.zeros_(model.decode_head.conv_seg.weight)

    class Roll:
        def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
            for name in ("label", "gate", "weight", "boundary"):
                results[name] = np.roll(results[name], 12, axis=1)
            return {**results, "stitched": np.roll(results["stitched"], 3, axis=2)}

    straight, rolled = loss_of(model, batch()), loss_of(model, batch(transforms=[Roll()]))
    for name in TERMS:
        torch.testing.assert_close(straight[f"decode.loss_{name}"], rolled[f"decode.loss_{name}"])


def test_everything_switched_off_is_a_zero_loss() -> None:
    model = build({})
    total, _ = model.parse_losses(loss_of(model, batch()))
    assert total == 0
    total.backward()


def test_auxiliary_heads_get_the_terms_times_their_weight() -> None:
    head = dict(
        type="FCNHead",
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=len(CLASSES),
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    )
    model = build({"whole": 1.0, "confident": 1.0}, **{"model.auxiliary_head": head})
    found = loss_of(model, batch())
    assert {"aux_0.loss_whole", "aux_0.loss_confident", "aux_0.pseudo_label_acc"} <= set(found)
    assert 0 < found["aux_0.loss_whole"] < found["decode.loss_whole"]


def test_images_of_different_sizes_in_a_batch_are_refused() -> None:
    data, small = batch(count=1), batch(count=1, transforms=[RandomScaleCrop((16, 32))])
    mixed = {key: data[key] + small[key] for key in data}
    with pytest.raises(UserError, match="different sizes"):
        loss_of(build({"whole": 1.0}), mixed)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"wole": 1}, "wole: unknown key; expected one of: boundary, confident, ensemble, whole"),
        ({"whole": {"wait": 1}}, "whole.wait: unknown key; expected one of: hard, temperature, weight"),
        ({"whole": -1}, "whole.weight: found -1; .*greater than or equal to 0"),
        ({"boundary": {"temperature": 0}}, "boundary.temperature: found 0; .*greater than 0"),
        ({"confident": {"hard": True}}, ".*expected hard only for whole and ensemble"),
    ],
)
def test_wrong_terms_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"mka: 1 problem\n  - {message}"):
        build(config)


def test_class_weights_weigh_pixels_by_their_label() -> None:
    model, data = build({"whole": 1.0, "ensemble": 1.0, "confident": 1.0}).eval(), batch(count=1)
    model.class_weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    found, logits = loss_of(model, data), logits_of(model, data)
    sample = data["data_samples"][0]
    label = sample.gt_sem_seg.data
    balance = losses.label_weights(label, model.class_weights)
    stitched = losses.upsample_log_probs(sample.stitched.data[None], (32, 64), cyclic=True)
    ensemble = losses.ensemble_probs(stitched, label, sample.gate.data / 255)
    weight = sample.weight.data / 255 * balance
    expected = {
        "whole": losses.soft_cross_entropy(logits, stitched, balance),
        "ensemble": losses.soft_cross_entropy(logits, ensemble, balance * (label != 255)),
        "confident": losses.hard_cross_entropy(logits, label, weight),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[f"decode.loss_{name}"], value)
    supervised = batch(count=1, supervised=True)
    plain = torch.nn.functional.cross_entropy(
        logits_of(model, supervised), supervised["data_samples"][0].gt_sem_seg.data, model.class_weights
    )
    torch.testing.assert_close(loss_of(model, supervised)["decode.loss_label"], plain)


def test_circular_padding_is_for_full_panoramas_alone() -> None:
    plain, circular = (
        build({"confident": 1.0}).eval(),
        build({"confident": 1.0}, **{"model.circular_padding": True}).eval(),
    )
    circular.load_state_dict(plain.state_dict())
    panorama, crop = batch(), batch(transforms=[RandomScaleCrop((32, 48))])
    assert not torch.allclose(*(loss_of(m, panorama)["decode.loss_confident"] for m in (plain, circular)), rtol=1e-5)
    torch.testing.assert_close(*(loss_of(m, crop)["decode.loss_confident"] for m in (plain, circular)))


WINDOWS = tuple(make_views(ViewSettings(width=32, stride=16), 32, 64))


class WindowReader(MemoryReader):
    """Each window has labels and weights of its own, some ignored."""

    def fused(self, image_id: str) -> FusedSample:
        rng = np.random.default_rng(len(image_id))
        label = rng.integers(len(CLASSES) + 1, size=(len(WINDOWS), 32, 32)).astype(np.uint8)
        label[label == len(CLASSES)] = 255
        weight = rng.integers(2, size=label.shape).astype(np.uint8) * 255
        return replace(super().fused(image_id), windows=WINDOWS, window_label=label, window_weight=weight)


@pytest.mark.parametrize("mka", [1.0, {"weight": 1.0, "temperature": 2.0}])
@pytest.mark.parametrize("mirrored", [False, True])
def test_patch_terms_of_a_rule_that_works_per_window_are_those_of_its_windows(mka: Any, mirrored: bool) -> None:
    """`P_i` is `P_S` cropped to window `i`, and the terms are over all windows."""
    model = build({"ensemble": mka, "confident": mka}).eval()
    if mirrored:  # a constant network commutes with mirroring
        torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
    data = batch(1, [MirrorPanorama(1.0)] if mirrored else [], reader=WindowReader)
    found = loss_of(model, data)
    sample, temperature = WindowReader().fused("pano/0.png"), model.terms.ensemble.temperature
    logits = logits_of(model, data) / temperature
    patches = torch.cat([logits[..., window.columns(64)] for window in WINDOWS])
    label, weight = torch.from_numpy(sample.window_label).long(), torch.from_numpy(sample.window_weight) / 255
    ensemble = losses.hard_cross_entropy(patches, label)
    confident = losses.hard_cross_entropy(patches, label, weight)
    torch.testing.assert_close(found["decode.loss_ensemble"], ensemble * temperature**2)
    torch.testing.assert_close(found["decode.loss_confident"], confident * temperature**2)


def test_window_planes_without_their_windows_are_refused() -> None:
    reader = WindowReader()
    dataset = PseudoLabelDataset(reader, SPACE)
    reader.fused = lambda image_id: replace(WindowReader().fused(image_id), windows=WINDOWS[1:])  # type: ignore[method-assign]
    with pytest.raises(UserError, match="one plane for each of 3 windows, found uint8"):
        dataset.load("pano/0.png")
