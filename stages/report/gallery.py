"""Chooses the panoramas of the page: the best, the worst and the most uncertain ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cache import ImageGroup
from pipeline.cache.fused_reader import certainty_probabilities
from pipeline.core.errors import ImageError
from pipeline.core.progress import Progress, note_failure
from pipeline.data.expected_miou import expected_areas, expected_miou
from pipeline.data.manifests import ImageRecord, Manifest
from stages.config import Config

MAX_RANKED = 200  #: Largest number of panoramas whose figures are computed from the cache.

#: Figures that rank panoramas by quality; the first that a panorama has counts. Only the first needs labels.
QUALITY = {"mIoU": "mIoU", "expected_mIoU": "expected mIoU"}


@dataclass(frozen=True)
class Choice:
    """Chosen panoramas: title of each group to image ids, and the figures that they were chosen by, in words."""

    groups: dict[str, list[str]]
    reason: str


def measure(
    manifest: Manifest, config: Config, records: Sequence[ImageRecord], progress: Progress
) -> dict[str, dict[str, float]]:
    """Returns the figures of single fused panoramas that need no labels; of `MAX_RANKED` of them at most."""
    artefact, space = config.artefact(manifest, "fused"), config.fused_space()
    step = -(-len(records) // MAX_RANKED) or 1
    figures: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    progress.start("figures of panoramas", len(records[::step]))
    for record in records[::step]:
        with note_failure(record.id, failures, progress):
            group = artefact.read(record.id)
            areas = expected_areas(certainty_probabilities(group, space), group.read_array("label", ndim=2))
            figures[record.id] = {"expected_mIoU": expected_miou(areas), **signals_of(group)}
    return figures


def signals_of(group: ImageGroup) -> dict[str, float]:
    """Returns the signals that a fused panorama carries: `weight` in percent, `l_cc` in nats.

    Raises `ImageError` if an attribute has another type.
    """
    signals = group.attributes.get("signals", {})
    try:
        units = {"weight": 100.0, "l_cc": 1.0}
        return {name: unit * float(signals[name]) for name, unit in units.items() if name in signals}
    except (TypeError, ValueError):
        raise ImageError(f"{group}: attribute signals is {signals!r}, expected numbers by name") from None


def choose(figures: Mapping[str, Mapping[str, float]], ids: Sequence[str], count: int) -> Choice:
    """Chooses `count` of the panoramas `ids`, a third for each group; no panorama is in two groups.

    Best and worst by mIoU where there are labels, else by expected mIoU. Most uncertain by the mean of M or, where that
    is the same everywhere, by L_CC. Without figures, the first panoramas are taken.
    """
    count = min(count, len(ids))
    quality = next((name for name in QUALITY if any(name in figures.get(i, {}) for i in ids)), None)
    if quality is None:
        return Choice({"Panoramas": list(ids[:count])}, "In the order of the manifest")
    known = [i for i in ids if quality in figures.get(i, {})]
    known.sort(key=lambda i: -figures[i][quality])
    number_best = -(-count // 3)
    number_worst = (count - number_best + 1) // 2
    best, others = known[:number_best], known[number_best:][::-1]
    worst = others[:number_worst]
    doubt, sign = _doubt(figures, ids)
    left = [i for i in ids if i not in {*best, *worst} and doubt in figures.get(i, {})]
    left.sort(key=lambda i: sign * figures[i][doubt])
    groups = {"Best": best, "Worst": worst, "Most uncertain": left[: count - len(best) - len(worst)]}
    by = "the mean of M" if doubt == "weight" else "L_CC"
    reason = f"Best and worst by {QUALITY[quality]}, most uncertain by {by}"
    return Choice({title: chosen for title, chosen in groups.items() if chosen}, reason)


def _doubt(figures: Mapping[str, Mapping[str, float]], ids: Sequence[str]) -> tuple[str, int]:
    """Returns the figure that tells doubt, and the sign that sorts the most uncertain panorama first."""
    weights = [figures[i]["weight"] for i in ids if "weight" in figures.get(i, {})]
    has_l_cc = any("l_cc" in figures.get(i, {}) for i in ids)
    return ("l_cc", -1) if has_l_cc and (not weights or np.ptp(weights) < 0.01) else ("weight", 1)
