"""Training curves: scalars that trainings have written, drawn as small SVG charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from pipeline.core.errors import UserError
from pipeline.core.reading import load_json, read_json, read_text

MAX_POINTS = 240  #: Points of a curve; longer ones are averaged over equal numbers of steps.
LEFT_OUT = ("base_lr", "data_time", "time", "iter", "step", "memory", "epoch")  #: scalars that are not drawn
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 8, 8, 24  # of a chart, and its margins

#: Steps and values of one scalar.
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One scalar of several trainings: its title and its SVG. Curve `k` has the class `series-k`."""

    title: str
    svg: Markup


def read_curves(file: Path) -> dict[str, Curve]:
    """Returns the curves of the training that wrote the checkpoint or the adapted settings `file`, by scalar.

    A resumed training has written several files; for a step that two of them have, the later one counts. Damaged lines
    are left out.
    """
    adapted = file.parent / "losses.json"
    if adapted.is_file():
        with suppress(UserError):
            return _adaptation(read_json(adapted, "losses of an adaptation"))
    values: dict[str, dict[float, float]] = {}
    for path in sorted(file.parent.glob("*/vis_data/scalars.json")):
        with suppress(UserError):
            for line in read_text(path, "scalars of a training").splitlines():
                for name, step, value in _scalars(line):
                    values.setdefault(name, {})[step] = value
    return {name: sorted(curve.items()) for name, curve in values.items() if len(curve) > 1}


def _scalars(line: str) -> list[tuple[str, float, float]]:
    try:
        data = load_json(line)
    except ValueError:
        return []
    if not isinstance(data, dict) or not _is_number(data.get("step")):
        return []
    names = [name for name, value in data.items() if name not in LEFT_OUT and _is_number(value)]
    return [(name.removeprefix("decode."), float(data["step"]), float(data[name])) for name in names]


def _adaptation(losses: Mapping[str, object]) -> dict[str, Curve]:
    curves = {}
    for name, values in losses.items():
        if isinstance(values, list) and len(values) > 1 and all(map(_is_number, values)):
            curves[name] = [(float(step), float(value)) for step, value in enumerate(values, start=1)]
    return curves


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw_charts(trainings: Mapping[str, Mapping[str, Curve]]) -> list[Chart]:
    """Returns a chart for each scalar of the trainings, the total loss first."""
    names = list(dict.fromkeys(name for curves in trainings.values() for name in curves))
    names.sort(key=lambda name: (name != "loss", not name.startswith("loss")))
    return [Chart(name, draw_chart(name, {t: c[name] for t, c in trainings.items() if name in c})) for name in names]


def draw_chart(title: str, curves: Mapping[str, Curve]) -> Markup:
    """Draws curves over the same axes as SVG; the page's style sheet gives the colours."""
    points = [point for curve in curves.values() for point in curve]
    (x0, x1), (y0, y1) = _range(x for x, _ in points), _range(y for _, y in points)
    x_ticks, y_ticks = ticks(x0, x1), ticks(y0, y1)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)
        up = (y - y0) / ((y1 - y0) or 1) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + right, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, describe(title, curves))
    ]
    for tick in y_ticks:
        _, y = place(x0, tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(Markup('<text class="tick y" x="{}" y="{}">{}</text>').format(LEFT - 6, y + 3.5, f"{tick:g}"))
    for tick in x_ticks:
        x, _ = place(tick, y0)
        parts.append(Markup('<text class="tick x" x="{}" y="{}">{}</text>').format(x, HEIGHT - 7, f"{tick:g}"))
    for number, curve in enumerate(curves.values()):
        line = " ".join("{},{}".format(*place(*point)) for point in shorten(curve))
        parts.append(Markup('<polyline class="curve series-{}" points="{}"/>').format(number % 8, line))
    return Markup("").join([*parts, Markup("</svg>")])


def describe(title: str, curves: Mapping[str, Curve]) -> str:
    """Returns a chart in words: first and last value of every curve."""
    ends = [f"{name} from {curve[0][1]:.4g} to {curve[-1][1]:.4g}" for name, curve in curves.items()]
    return f"{title}: {'; '.join(ends)}"


def shorten(curve: Curve) -> Curve:
    """Returns at most `MAX_POINTS` points, means of equal numbers of steps."""
    each = -(-len(curve) // MAX_POINTS)
    parts = [curve[start : start + each] for start in range(0, len(curve), each)] if each > 1 else []
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    return means or curve


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round values in `low..high`, of step 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    return min(numbers), max(numbers)
