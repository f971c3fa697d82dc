"""Parses `--vary` and combines the values of the varied settings. Reads no cache and no image."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.core.errors import UserError
from pipeline.core.reading import load_yaml
from pipeline.core.settings import sort_overrides
from stages.config import Config, load_config


@dataclass(frozen=True)
class Vary:
    """Settings that take the same value, e.g. `("sam.views.stride",)`, and their values."""

    places: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Combination:
    """One combination of settings: an ensemble, and the students that learn from it.

    Attributes:
        values: value under the title of each column.
        config: the settings with these values.
        rounds: rounds of TA adaptation before; None: the TA is used as it is.
        seeds: seed of each student that is trained.
        of_training: titles of the columns that change the training only.
    """

    values: dict[str, Any]
    config: Config
    rounds: int | None = None
    seeds: tuple[int, ...] = ()
    of_training: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The values in words."""
        return describe(self.values)

    @property
    def ensemble_values(self) -> dict[str, Any]:
        """The values that the ensemble depends on."""
        return {title: value for title, value in self.values.items() if title not in self.of_training}


def parse_vary(text: str) -> Vary:
    """Parses `a.b=1,2`, or `a.b,c.d=1,2` for settings that change together. Raises `UserError`.

    The values are YAML with commas between them; a list in brackets is one value.
    """
    left, separator, right = text.partition("=")
    places = tuple(place.strip() for place in left.split(","))
    if not separator or not all(places):
        raise UserError(f"--vary {text}: expected the form section.key=value,value,...")
    try:
        values = load_yaml(f"[{right}]")
    except yaml.YAMLError:
        raise UserError(f"--vary {text}: the values {right!r} are not valid YAML with commas between") from None
    if not isinstance(values, list) or not values:
        raise UserError(f"--vary {text}: found no value, expected section.key=value,value,...")
    return Vary(places, tuple(values))


def combinations(config: Path | None, overrides: Sequence[str], varied: Sequence[Vary]) -> list[Combination]:
    """Combines all values of the varied settings, over the file `config` with `overrides`; the last changes fastest.

    A section is set before the settings in it, so that a rule and its settings can be varied together. Raises
    `UserError` if a combination is no valid settings, or a setting is varied twice.
    """
    places = [place for vary in varied for place in vary.places]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"--vary: {twice[0]} occurs twice, expected once with all its values")
    titles, rows = column_titles(varied), []
    of_training = frozenset(
        title for title, vary in zip(titles, varied, strict=True) if all(p.startswith("train.") for p in vary.places)
    )
    for values in itertools.product(*(vary.values for vary in varied)):
        changes = [
            f"{place}={json.dumps(value, ensure_ascii=False, default=str)}"
            for vary, value in zip(varied, values, strict=True)
            for place in vary.places
        ]
        settings = load_config(config, sort_overrides([*overrides, *changes]))
        rows.append(Combination(dict(zip(titles, values, strict=True)), settings, of_training=of_training))
    return rows


def check_effect(rows: Sequence[Combination], varied: Sequence[Vary], key: Callable[[Config], str]) -> None:
    """Raises `UserError` if all values of a setting give the same results: the table would repeat its rows.

    `rows` are all `combinations` of `varied`; `key` returns what names the result of some settings.
    """
    keys = np.array([key(row.config) for row in rows]).reshape([len(vary.values) for vary in varied])
    for axis, vary in enumerate(varied):
        if len(vary.values) > 1 and (keys == keys.take([0], axis)).all():
            places = ",".join(vary.places)
            expected = "settings of sam, masks, teacher or fusion that take part in a row"
            students = "; those of train take part in suites that train students"
            raise UserError(f"--vary {places}: changes no ensemble; expected {expected}{students}")


def column_titles(varied: Sequence[Vary]) -> list[str]:
    """Returns a title for each varied setting: its last name or, if that is ambiguous, its whole name."""
    short = [vary.places[0].rpartition(".")[2] for vary in varied]
    return [name if short.count(name) == 1 else vary.places[0] for name, vary in zip(short, varied, strict=True)]


def describe(values: Mapping[str, Any]) -> str:
    """Returns the values under some titles in words."""
    return ", ".join(f"{title} {format_value(value)}" for title, value in values.items())


def format_value(value: Any) -> str:
    """Returns `value` in words on one line; a file by its name without folders."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(part)}" for key, part in value.items())
    if isinstance(value, str):
        return Path(value).name if Path(value).suffix else value
    return json.dumps(value, ensure_ascii=False, default=str)
