"""The student: any mmseg `EncoderDecoder`, trained with the MKA terms instead of its head's own loss.

A config becomes a student by `type='MKASegmentor'` alone; prediction stays `EncoderDecoder`'s. This module
combines the losses of `pipeline.models.losses`; it reads no file and knows no cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.geometry.circular_convolution import circular_padding_enabled, make_circular
from pipeline.models import losses
from pipeline.models.weights import load_backbone, load_pretrained


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    weight: float = 1.0
    """Factor of the term; 0 switches it off."""
    temperature: float = 1.0
    """Divides the student's logits and those behind a soft target; the term is multiplied by its square."""
    hard: bool = False
    """Train on the argmax of a soft target; only for `whole` and `ensemble`."""

    @property
    def plain(self) -> bool:
        """Soft at temperature 1: such terms share the student's log-probabilities."""
        return self.temperature == 1 and not self.hard

    @property
    def factor(self) -> float:
        """What the term's mean is multiplied by."""
        return self.weight * self.temperature**2


@dataclass(frozen=True)
class MKATerms:
    """The terms of the loss. [P]: which terms exist. [O]: their weights, all 1 but the boundary's, and temperatures."""

    whole: Term = Term()
    """`CE(S̄, P_S)`: the stitched whole-image prediction of the teacher assistant."""
    ensemble: Term = Term()
    """`CE(E, P)`: the fused ensemble, `E = (1−g)·S̄ + g·onehot(label)`."""
    confident: Term = Term()
    """`CE(E_H, P)`: the labels weighted by `M`, normalised by the sum of `M`."""
    boundary: Term = Term(weight=0.1)
    """`L_bd(B_ref, B_S)`, on the samples that carry a refined boundary. A weight of 1 sharpens edges at the cost of
    classes (docs/method.md)."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> MKATerms:
        """Read `dict(whole=1.0, boundary=dict(weight=0.5), ...)`; a bare number is a weight.

        Raises:
            UserError: an unknown term or key, or a negative weight, or a temperature that is not positive.
        """
        terms = {}
        names = [f.name for f in fields(cls)]
        keys = [f.name for f in fields(Term)]
        for name, value in (config or {}).items():
            if name not in names:
                raise UserError(f"mka.{name}: no such term; expected one of {', '.join(names)}")
            entry = dict(value) if isinstance(value, Mapping) else {"weight": value}
            unknown = sorted(set(entry) - set(keys))
            if unknown:
                raise UserError(f"mka.{name}.{unknown[0]}: no such key; expected one of {', '.join(keys)}")
            term = Term(**entry)
            if term.weight < 0 or term.temperature <= 0:
                raise UserError(f"mka.{name}: expected weight >= 0 and temperature > 0, found {term}")
            if term.hard and name not in ("whole", "ensemble"):
                raise UserError(f"mka.{name}.hard: only whole and ensemble have a soft target")
            terms[name] = term
        return cls(**terms)


@MODELS.register_module()
class MKASegmentor(EncoderDecoder):
    """`EncoderDecoder` with `loss` = the weighted MKA terms.

    Each data sample holds `gt_sem_seg` (the label) and, from the cache, `stitched`, `gate`, `weight` and
    possibly `boundary`, as `PackMKAInputs` packs them. Labels and `S̄` may be of another size than the
    network's input (random scaling resizes only the image): the logits are brought to the label's size, so
    no label is ever interpolated. With `window_label` and `window_weight`, the `E_i` and `M_i` of a rule that
    works per window, the patch terms are means over every window of each pixel: `CE(E_i, P_i) + CE(E_H,i, P_i)`
    [P]. A sample with `gt_sem_seg` alone (ground truth, source domain) gets the ordinary cross-entropy. The
    terms are means over the pixels of one sample, then over the samples of the batch [O].

    Auxiliary heads get the same terms times their `loss_decode.loss_weight`. `decode_head.loss_decode`
    itself is unused.

    Args:
        mka: the terms, see `MKATerms.from_config`; `None` is all of them with its weights.
        cyclic: convolutions wrap around in x instead of padding zeros (`pipeline.geometry.circular_convolution`) [O]; on crops,
            whose edges are no neighbours, they pad as ever.
        class_weights: a factor per class; in every cross-entropy a pixel counts with that of its label [O].
        pretrained_backbone: a file from which `init_weights` takes the backbone's, see `load_backbone`.
        load_from: `path` of a file from which it takes all of them, and `classifier`, see `load_start`.
        **kwargs: of `EncoderDecoder`.
    """

    def __init__(
        self,
        *args: Any,
        mka: Mapping[str, Any] | None = None,
        cyclic: bool = False,
        class_weights: Sequence[float] | None = None,
        pretrained_backbone: str | None = None,
        load_from: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.pretrained_backbone = pretrained_backbone
        self.load_from = load_from
        self.terms = MKATerms.from_config(mka)
        if cyclic:
            make_circular(self)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def init_weights(self) -> None:
        """Random weights by mmengine's rules, then those of the file, if there is one."""
        super().init_weights()
        if self.begin() is False:
            MMLogger.get_current_instance().warning(
                f"{(self.load_from or {})['path']}: was trained for other classes; the layer that names them begins "
                "with random weights"
            )

    def begin(self) -> bool | None:
        """Loads the weights of the file; False if its classes are others, `None` without a file.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        if self.load_from is not None:
            what = "the student"
            return load_pretrained(self, self.load_from["path"], what, classifier=self.load_from["classifier"])
        if self.pretrained_backbone is not None:
            load_backbone(self.backbone, self.pretrained_backbone, "the student's backbone")
        return None

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """The named loss terms of a batch.

        Args:
            inputs: `(N, 3, H, W)` normalised images.
            data_samples: `N` samples.

        Returns:
            scalars `decode.loss_<term>` and `decode.pseudo_label_acc`, the percentage of labelled pixels predicted
            as labelled; likewise `aux_<i>...` for auxiliary heads.

        Raises:
            UserError: images of different sizes in one batch, or a head that does not return logits.
        """
        for sample in data_samples:
            if any(sample.metainfo.get("padding_size", ())):
                raise UserError(
                    f"{sample.metainfo.get('image_id')}: images of different sizes meet in one batch; "
                    "set a crop size or a batch size of 1"
                )
        whole = all(sample.metainfo.get("full_ring", True) for sample in data_samples)
        with circular_padding_enabled(self, whole):
            return self._losses(inputs, data_samples)

    def _losses(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        features = self.extract_feat(inputs)
        result = self._head_loss(self.decode_head, features, data_samples, "decode")
        if self.with_auxiliary_head:
            heads = self.auxiliary_head
            heads = heads if isinstance(heads, nn.ModuleList) else [heads]
            for index, head in enumerate(heads):
                scale = float(getattr(head.loss_decode, "loss_weight", 1.0))
                for name, value in self._head_loss(head, features, data_samples, f"aux_{index}").items():
                    result[name] = value * scale if ".loss_" in name else value
        return result

    def _head_loss(
        self, head: nn.Module, features: Any, data_samples: Sequence[SegDataSample], prefix: str
    ) -> dict[str, Tensor]:
        logits = head.forward(features)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise UserError(f"{type(head).__name__}: a student's head must return logits of shape (N, C, h, w)")
        per_sample = [self._sample_loss(one, sample) for one, sample in zip(logits.split(1), data_samples, strict=True)]
        return {
            f"{prefix}.{name}": torch.stack([entry[name] for entry in per_sample if name in entry]).sum()
            / len(per_sample)
            for name in dict.fromkeys(name for entry in per_sample for name in entry)
        }

    def _sample_loss(self, native_logits: Tensor, sample: SegDataSample) -> dict[str, Tensor]:
        ignore = self.decode_head.ignore_index
        label = sample.gt_sem_seg.data.long()
        size = tuple(label.shape[-2:])
        logits = nn.functional.interpolate(
            native_logits.float(), size, mode="bilinear", align_corners=self.align_corners
        )
        log_p = nn.functional.log_softmax(logits, dim=1)
        known = label != ignore
        on_label = losses.hard_pixel_loss(log_p, label, ignore)
        with torch.no_grad():  # the label's probability is the highest there is; argmax is slow on planes
            right = (known & (-on_label >= log_p.amax(dim=1))).float().sum()
            result = {"pseudo_label_acc": 100 * right / known.float().sum().clamp_min(1)}
        balance = self._balance(label)
        counted = known.float() if balance is None else known * balance
        if "stitched" not in sample:
            result["loss_label"] = losses.weighted_mean(on_label, counted)
            return result

        terms, meta = self.terms, sample.metainfo
        if "window_label" in sample:  # what each window says of a pixel, on a first axis instead of a batch of one
            label = sample.window_label.data.long()
            gate, weight = torch.ones_like(label, dtype=torch.float32), sample.window_weight.data.float() / 255
            on_label, each = losses.hard_pixel_loss(_each(log_p, label), label, ignore), self._balance(label)
            counted = (label != ignore).float() * (1 if each is None else each)
        else:
            gate, weight = sample.gate.data.float() / 255, sample.weight.data.float() / 255
        if terms.whole.weight or terms.ensemble.weight:
            with torch.no_grad():
                stitched = losses.upsample_log_probs(
                    sample.stitched.data.unsqueeze(0), size, cyclic=meta.get("full_ring", True)
                )
            on_stitched = losses.soft_pixel_loss(log_p, stitched)
        if (term := terms.whole).weight:
            loss = on_stitched if term.plain else _distill(logits, stitched, term)
            loss = loss.mean() if balance is None else losses.weighted_mean(loss, balance)
            result["loss_whole"] = loss * term.factor
        if (term := terms.ensemble).weight:
            if term.plain:  # E mixes the two targets, and the loss is linear in them
                loss = (1 - gate) * on_stitched + gate * on_label
            else:
                targets = losses.ensemble_probs(_each(stitched, label), label, gate, ignore)
                loss = _distill(_each(logits, label), targets, term)
            result["loss_ensemble"] = losses.weighted_mean(loss, counted) * term.factor
        if (term := terms.confident).weight:
            loss = on_label
            if not term.plain:
                loss = losses.hard_pixel_loss(_each(_at(logits, term), label), label, ignore)
            result["loss_confident"] = losses.weighted_mean(loss, counted * weight) * term.factor
        if (term := terms.boundary).weight and "boundary" in sample:
            probs, boundary = (log_p if term.plain else _at(logits, term)).exp(), sample.boundary.data
            if meta.get("flip", False):  # ∂ looks to the right: compare in the orientation it was computed in
                probs, boundary = probs.flip(-1), boundary.flip(-1)
            loss = losses.boundary_loss(
                probs, boundary, cyclic=meta.get("full_ring", True), last_row=meta.get("last_row", True)
            )
            result["loss_boundary"] = loss * term.factor
        if not any(name.startswith("loss") for name in result):
            result["loss_none"] = logits.sum() * 0
        return result

    def _balance(self, label: Tensor) -> Tensor | None:
        """The weight of each pixel's class, 1 where it is ignored; `None` without class weights."""
        if self.class_weights is None:
            return None
        return losses.label_weights(label, self.class_weights, self.decode_head.ignore_index)


def _each(planes: Tensor, label: Tensor) -> Tensor:
    """`(1, C, H, W)` for each of the labels `(n, H, W)`, without a copy."""
    return planes.expand(len(label), -1, -1, -1)


def _at(logits: Tensor, term: Term) -> Tensor:
    """The student's log-probabilities at the term's temperature."""
    return nn.functional.log_softmax(logits / term.temperature, dim=1)


def _distill(logits: Tensor, target: Tensor, term: Term) -> Tensor:
    """The loss of every pixel against a soft target at the term's temperature, or against its argmax: `(N, H, W)`."""
    log_p = _at(logits, term)
    if term.hard:
        return losses.hard_pixel_loss(log_p, target.argmax(dim=1), ignore_index=-1)
    return losses.soft_pixel_loss(log_p, losses.sharpen(target, term.temperature))
