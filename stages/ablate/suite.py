"""Suites: tables that a short YAML file describes, with ensembles, adapted TAs and students."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.project_files import find_project_file, project_file_names
from pipeline.core.reading import read_yaml
from pipeline.core.settings import Settings, parse_settings, sort_overrides
from pipeline.data.results import LiteratureRow
from stages.ablate.grid import Combination, Vary, check_effect, combinations, describe
from stages.config import Config, load_config

FOLDER = "configs/suites"  #: of the shipped suites
LITERATURE = "configs/literature"  #: Published rows, a file for each data set.
FACTOR = re.compile(r"x(\d+(?:\.\d+)?)")  #: A value that is a multiple of the value in the settings.
TITLE, ROUNDS = "row", "rounds"  #: Columns of `RowGroup.name` and `RowGroup.rounds`.


class RowGroup(Settings):
    """Rows of a table: all combinations of some values."""

    name: str = Field("", description="Name of its rows, in the column `row`.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of its rows, {section.key: value}.")
    vary: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Settings and their values, {section.key: [1, 2]}; 'a.b, c.d' take the same value. x0.5 is half of "
        "the value in the settings.",
    )
    rounds: list[int] = Field(default_factory=list, description="Rounds of TA adaptation before; each is a row.")
    students: bool | None = Field(None, description="Train students on its ensembles; null: as the suite says.")


class Suite(Settings):
    """A table."""

    description: str = Field("", description="What the table compares, in one or two sentences.")
    students: bool = Field(False, description="Train students on every ensemble.")
    seeds: list[int] = Field([0], min_length=1, description="Seeds of the students.")
    rows: list[RowGroup] = Field(min_length=1, description="The rows of the table.")


@dataclass(frozen=True)
class Table:
    """A table to be measured: its title, its suite, its combinations, and the titles of its columns."""

    title: str
    suite: Suite
    combinations: list[Combination]

    @property
    def columns(self) -> list[str]:
        """The titles of the varied settings, in the order in which they occur."""
        titles = dict.fromkeys(title for combination in self.combinations for title in combination.values)
        return list(titles)


class _Literature(Settings):
    rows: list[LiteratureRow] = Field(min_length=1)


def read_literature(dataset: str) -> list[LiteratureRow]:
    """Returns the published rows on a data set, by the name in its manifest; none if no file has them."""
    if dataset not in project_file_names(LITERATURE):
        return []
    path = find_project_file(LITERATURE, dataset, "literature")
    return parse_settings(_Literature, read_yaml(path), str(path)).rows


def read_suite(name: str | Path) -> tuple[str, Suite]:
    """Reads a suite by name or file; returns its name and the suite. Raises `UserError`, which lists every problem."""
    path = find_project_file(FOLDER, name, "--suite")
    return path.stem, parse_settings(Suite, read_yaml(path), str(path))


def expand(
    title: str,
    suite: Suite,
    config: Path | None,
    overrides: Sequence[str],
    key: Callable[[Config, bool], str],
) -> Table:
    """Combines the settings of every group of rows with the file `config` and its `overrides`.

    `key` returns what names the ensemble of some settings or, with True, the student too. Raises `UserError` if a
    combination is no valid settings, or a setting has no effect on its group.
    """
    base = load_config(config, overrides).model_dump(mode="json")
    found: list[Combination] = []
    for group in suite.rows:
        if group.settings and not (group.name or group.vary or group.rounds):
            raise UserError(f"suite {title}: rows with settings {describe(group.settings)} have no name; expected one")
        changes = sort_overrides([*overrides, *(_override(*item, base) for item in group.settings.items())])
        varied = [_vary(places, values, base) for places, values in group.vary.items()]
        students = suite.students if group.students is None else group.students
        grid = combinations(config, changes, varied)
        check_effect(grid, varied, lambda settings, students=students: key(settings, students))  # type: ignore[misc]
        every: Sequence[int | None] = group.rounds or (None,)
        for combination, rounds in itertools.product(grid, every):
            values = {TITLE: group.name} if group.name else {}
            values |= combination.values | ({} if rounds is None else {ROUNDS: rounds})
            more = {TITLE} if all(place.startswith("train.") for place in group.settings) else set()
            of_training = combination.of_training | (more if len(combination.of_training) == len(varied) else set())
            seeds = tuple(suite.seeds) if students else ()
            row = replace(combination, values=values, rounds=rounds, seeds=seeds, of_training=of_training)
            found.append(row)
    names = [combination.name for combination in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"suite {title}: two rows are named {name!r}; expected different values, or names")
    return Table(title, suite, found)


def _vary(places: str, values: Sequence[Any], base: dict[str, Any]) -> Vary:
    names = tuple(place.strip() for place in places.split(","))
    return Vary(names, tuple(_value(value, names[0], base) for value in values))


def _override(place: str, value: Any, base: dict[str, Any]) -> str:
    return f"{place}={json.dumps(_value(value, place, base), ensure_ascii=False, default=str)}"


def _value(value: Any, place: str, base: dict[str, Any]) -> Any:
    """Returns `value` with its factors `x0.5` replaced by numbers, also inside of it.

    In a list below `a.b`, such as further views, `width: x2` is twice `a.width`.
    """
    if isinstance(value, dict):
        return {name: _value(part, f"{place}.{name}", base) for name, part in value.items()}
    if isinstance(value, list):
        return [_value(part, place.rpartition(".")[0], base) for part in value]
    factor = FACTOR.fullmatch(value) if isinstance(value, str) else None
    if factor is None:
        return value
    number: Any = base
    for name in place.split("."):
        number = number.get(name) if isinstance(number, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"suite: {place}: found {value!r}, but the settings have no number there; expected a value")
    scaled = float(factor[1]) * number
    return round(scaled) if isinstance(number, int) else scaled
