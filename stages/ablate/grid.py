"""What `--vary` says: settings and their values, and every combination of them. Knows no cache and no image."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import UserError
from pipeline.core.reading import load_yaml
from pipeline.core.settings import outer_first
from stages.config import Config, load_config


@dataclass(frozen=True)
class Vary:
    """Settings that take the same value together, and the values they take one after the other."""

    places: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Combination:
    """One row of the table: the value under each column's title, and the settings that follow."""

    values: dict[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """The values as people read them."""
        return ", ".join(f"{title} {shown(value)}" for title, value in self.values.items())


def parse_vary(text: str) -> Vary:
    """`a.b=1,2`: the values of `a.b`, YAML with commas between; `a.b,c.d=1,2`: both take each of them.

    A list in brackets is one value. Raises `UserError` for anything else.
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
    """Every combination of the `varied` settings, the last one changing fastest, over `config` with `overrides`.

    A section is set before what is in it, so a rule and its settings may be varied side by side. Raises
    `UserError` for the first combination that is no valid settings, and for a setting that is varied twice.
    """
    places = [place for vary in varied for place in vary.places]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"--vary: {twice[0]} is there twice, expected once with all its values")
    names = titles(varied)
    rows = []
    for values in itertools.product(*(vary.values for vary in varied)):
        changes = [
            f"{place}={json.dumps(value, ensure_ascii=False, default=str)}"
            for vary, value in zip(varied, values, strict=True)
            for place in vary.places
        ]
        settings = load_config(config, outer_first([*overrides, *changes]))
        rows.append(Combination(dict(zip(names, values, strict=True)), settings))
    return rows


def titles(varied: Sequence[Vary]) -> list[str]:
    """A column title for each: the last name of its (first) setting, the whole where that is not clear."""
    short = [vary.places[0].rpartition(".")[2] for vary in varied]
    return [name if short.count(name) == 1 else vary.places[0] for name, vary in zip(short, varied, strict=True)]


def shown(value: Any) -> str:
    """`value` as it is written in YAML, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
