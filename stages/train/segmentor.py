"""The student: any mmseg `EncoderDecoder`, trained with the terms of MKA instead of its head's own loss.

`type='MKASegmentor'` makes a config a student; prediction is that of `EncoderDecoder`. The losses are functions of
`pipeline.models.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.core.settings import Settings, parse_settings
from pipeline.geometry.circular_convolution import circular_padding_enabled, make_circular
from pipeline.models import losses
from pipeline.models.weights import load_backbone, load_pretrained


class Term(Settings):
    """One term of the loss; a bare number is read as its weight."""

    weight: float = Field(1.0, ge=0, description="Factor of the term; 0 switches it off.")
    temperature: float = Field(
        1.0, gt=0, description="Divides the student's logits and those of a soft target; its square is another factor."
    )
    hard: bool = Field(False, description="Train on the argmax of a soft target; only for whole and ensemble.")

    @model_validator(mode="before")
    @classmethod
    def _read_weight(cls, data: Any) -> Any:
        return {"weight": data} if isinstance(data, int | float) else data

    @property
    def plain(self) -> bool:
        """Whether the term is soft at temperature 1: such terms share the student's log-probabilities."""
        return self.temperature == 1 and not self.hard

    @property
    def factor(self) -> float:
        """Factor of the term's mean."""
        return self.weight * self.temperature**2


class MKATerms(Settings):
    """The terms of the loss. Which terms there are is [P]; weights and temperatures are [O]."""

    whole: Term = Field(Term(), description="CE(S̄, P_S), on the stitched prediction of the teacher assistant.")
    ensemble: Term = Field(Term(), description="CE(E, P), on the ensemble E = (1−g)·S̄ + g·onehot(label).")
    confident: Term = Field(Term(), description="CE(E_H, P), on labels weighted by M, normalised by the sum of M.")
    # a weight of 1 sharpens edges at the cost of classes, see docs/method.md
    boundary: Term = Field(Term(weight=0.1), description="L_bd(B_ref, B_S), on samples with a refined boundary.")

    @model_validator(mode="after")
    def _check_soft_targets(self) -> MKATerms:
        if self.confident.hard or self.boundary.hard:
            raise ValueError("expected hard only for whole and ensemble, which have a soft target")
        return self


@MODELS.register_module()
class MKASegmentor(EncoderDecoder):
    """`EncoderDecoder` with the weighted terms of MKA as its loss.

    Each data sample holds `gt_sem_seg` (the label) and, from the cache, `stitched`, `gate`, `weight` and possibly
    `boundary`, as `PackMKAInputs` packs them. Labels and `S̄` may differ in size from the input (random scaling resizes
    the image alone): logits are resized to the size of the label, labels are never interpolated. With `window_label`
    and `window_weight`, the `E_i` and `M_i` of a rule that labels each window by itself, the patch terms are means
    over all windows of each pixel, `CE(E_i, P_i) + CE(E_H,i, P_i)` [P]. A sample with `gt_sem_seg` alone (ground
    truth, source domain) has the ordinary cross-entropy. Terms are means over the pixels of a sample, then over the
    samples of a batch [O].

    Auxiliary heads have the same terms, multiplied by their `loss_decode.loss_weight`. `decode_head.loss_decode` is
    not used.

    Args:
        mka: the terms, e.g. `dict(whole=1.0, boundary=dict(weight=0.5))`; defaults are those of `MKATerms`.
        circular_padding: convolutions pad circularly in x instead of with zeros, except on crops [O].
        class_weights: a factor for each class; in every cross-entropy a pixel has that of its label [O].
        pretrained_backbone: a file with initial weights of the backbone, see `load_backbone`.
        load_from: initial weights of all layers: `path` of the file, and `classifier`, see `load_pretrained`.
        *args, **kwargs: arguments of `EncoderDecoder`.
    """

    def __init__(
        self,
        *args: Any,
        mka: Mapping[str, Any] | None = None,
        circular_padding: bool = False,
        class_weights: Sequence[float] | None = None,
        pretrained_backbone: str | None = None,
        load_from: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.pretrained_backbone = pretrained_backbone
        self.load_from = load_from
        self.terms = parse_settings(MKATerms, mka or {}, "mka")
        if circular_padding:
            make_circular(self)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def init_weights(self) -> None:
        """Draws random weights by mmengine's rules, then loads the initial weights, if there are any."""
        super().init_weights()
        if not self.load_pretrained() and self.load_from is not None:
            MMLogger.get_current_instance().warning(
                f"{self.load_from['path']}: was trained for other classes; the classification layer starts with random "
                "weights"
            )

    def load_pretrained(self) -> bool:
        """Loads the initial weights, if there are any. Raises `UserError` if they cannot be read or do not fit.

        Returns whether the weights of a classification layer were loaded; not if the file has other classes.
        """
        if self.load_from is not None:
            return load_pretrained(self, self.load_from["path"], "the student", classifier=self.load_from["classifier"])
        if self.pretrained_backbone is not None:
            load_backbone(self.backbone, self.pretrained_backbone, "the student's backbone")
        return False

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Returns the terms of the loss of a batch: normalised images `(N, 3, H, W)`, and their samples.

        They are scalars `decode.loss_<term>`, and `decode.pseudo_label_acc`, the percentage of labelled pixels
        predicted as labelled; for auxiliary heads likewise `aux_<i>.*`. Raises `UserError` if images of a batch differ
        in size, or a head does not return logits.
        """
        for sample in data_samples:
            if any(sample.metainfo.get("padding_size", ())):
                raise UserError(
                    f"{sample.metainfo.get('image_id')}: images of different sizes meet in one batch; "
                    "set a crop size or a batch size of 1"
                )
        is_full_panorama = all(sample.metainfo.get("is_full_panorama", True) for sample in data_samples)
        with circular_padding_enabled(self, is_full_panorama):
            features = self.extract_feat(inputs)
            result = self._head_losses(self.decode_head, features, data_samples, "decode")
            if self.with_auxiliary_head:
                heads = self.auxiliary_head
                for index, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
                    scale = float(getattr(head.loss_decode, "loss_weight", 1.0))
                    for name, value in self._head_losses(head, features, data_samples, f"aux_{index}").items():
                        result[name] = value * scale if ".loss_" in name else value
            return result

    def _head_losses(
        self, head: nn.Module, features: Any, data_samples: Sequence[SegDataSample], prefix: str
    ) -> dict[str, Tensor]:
        """Returns the means over the samples of a batch."""
        logits = head.forward(features)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise UserError(f"{type(head).__name__}: a student's head must return logits of shape (N, C, h, w)")
        per_sample = list(map(self._sample_losses, logits.split(1), data_samples))
        names = dict.fromkeys(chain.from_iterable(per_sample))
        sums = {name: torch.stack([entry[name] for entry in per_sample if name in entry]).sum() for name in names}
        return {f"{prefix}.{name}": value / len(per_sample) for name, value in sums.items()}

    def _sample_losses(self, native_logits: Tensor, sample: SegDataSample) -> dict[str, Tensor]:
        ignore_index = self.decode_head.ignore_index
        label = sample.gt_sem_seg.data.long()
        size, align_corners = tuple(label.shape[-2:]), self.align_corners
        logits = nn.functional.interpolate(native_logits.float(), size, mode="bilinear", align_corners=align_corners)
        log_p = nn.functional.log_softmax(logits, dim=1)
        on_label = losses.hard_pixel_loss(log_p, label, ignore_index)
        with torch.no_grad():  # the predicted class has the highest probability; argmax is slow on planes
            labelled = label != ignore_index
            correct = (labelled & (-on_label >= log_p.amax(dim=1))).float().sum()
            accuracy = 100 * correct / labelled.float().sum().clamp_min(1)
        if "stitched" in sample:
            result = self._mka_losses(logits, log_p, on_label, sample)
        else:
            result = {"loss_label": losses.weighted_mean(on_label, self._label_weights(label))}
        return {"pseudo_label_acc": accuracy, **result}

    def _mka_losses(self, logits: Tensor, log_p: Tensor, on_label: Tensor, sample: SegDataSample) -> dict[str, Tensor]:
        """Returns the terms that are switched on; `on_label` is the cross-entropy of each pixel with the label."""
        terms, ignore_index, result = self.terms, self.decode_head.ignore_index, {}
        is_full_panorama = sample.metainfo.get("is_full_panorama", True)
        label = panorama_label = sample.gt_sem_seg.data.long()
        if "window_label" in sample:  # the windows of a pixel are on the first axis, in place of a batch of one
            label = sample.window_label.data.long()
            gate, weight = torch.ones_like(label, dtype=torch.float32), sample.window_weight.data.float() / 255
            on_label = losses.hard_pixel_loss(_expand(log_p, label), label, ignore_index)
        else:
            gate, weight = sample.gate.data.float() / 255, sample.weight.data.float() / 255
        label_weights = self._label_weights(label)
        if terms.whole.weight or terms.ensemble.weight:
            with torch.no_grad():
                coarse = sample.stitched.data.unsqueeze(0)
                stitched = losses.upsample_log_probs(coarse, tuple(logits.shape[-2:]), cyclic=is_full_panorama)
            on_stitched = losses.soft_pixel_loss(log_p, stitched)
        if (term := terms.whole).weight:
            loss = on_stitched if term.plain else distillation_loss(logits, stitched, term)
            if self.class_weights is not None:
                weights = losses.label_weights(panorama_label, self.class_weights, ignore_index)
                loss = losses.weighted_mean(loss, weights)
            result["loss_whole"] = loss.mean() * term.factor
        if (term := terms.ensemble).weight:
            if term.plain:  # E mixes the two targets, and the loss is linear in them
                loss = (1 - gate) * on_stitched + gate * on_label
            else:
                target = losses.ensemble_probs(_expand(stitched, label), label, gate, ignore_index)
                loss = distillation_loss(_expand(logits, label), target, term)
            result["loss_ensemble"] = losses.weighted_mean(loss, label_weights) * term.factor
        if (term := terms.confident).weight:
            loss = on_label
            if not term.plain:
                loss = losses.hard_pixel_loss(_expand(_log_softmax(logits, term), label), label, ignore_index)
            result["loss_confident"] = losses.weighted_mean(loss, label_weights * weight) * term.factor
        if (term := terms.boundary).weight and "boundary" in sample:
            probs, boundary = (log_p if term.plain else _log_softmax(logits, term)).exp(), sample.boundary.data
            if sample.metainfo.get("flip", False):  # the operator looks right: compare in the original orientation
                probs, boundary = probs.flip(-1), boundary.flip(-1)
            last_row = sample.metainfo.get("last_row", True)
            loss = losses.boundary_loss(probs, boundary, cyclic=is_full_panorama, last_row=last_row)
            result["loss_boundary"] = loss * term.factor
        return result or {"loss_none": logits.sum() * 0}

    def _label_weights(self, label: Tensor) -> Tensor:
        """Returns the weight of each pixel: that of its class (1 without class weights), 0 where it is ignored."""
        labelled = (label != self.decode_head.ignore_index).float()
        if self.class_weights is None:
            return labelled
        return labelled * losses.label_weights(label, self.class_weights, self.decode_head.ignore_index)


def distillation_loss(logits: Tensor, target: Tensor, term: Term) -> Tensor:
    """Returns the cross-entropy of every pixel with a soft target, or with its argmax if `term.hard`.

    The student's logits and the target's probabilities are `(N, C, H, W)`, the result is float32 `(N, H, W)`.
    """
    log_p = _log_softmax(logits, term)
    if term.hard:
        return losses.hard_pixel_loss(log_p, target.argmax(dim=1), ignore_index=-1)
    return losses.soft_pixel_loss(log_p, losses.sharpen(target, term.temperature))


def _log_softmax(logits: Tensor, term: Term) -> Tensor:
    return nn.functional.log_softmax(logits / term.temperature, dim=1)


def _expand(planes: Tensor, label: Tensor) -> Tensor:
    """Returns `(1, C, H, W)` for each of the labels `(n, H, W)`, without a copy."""
    return planes.expand(len(label), -1, -1, -1)
