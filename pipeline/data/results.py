"""Result files: the measured rows of a table in one JSON file, as `ablate` writes it and `report` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from pipeline.core.atomic_files import write_text
from pipeline.core.reading import read_json, short_repr
from pipeline.core.settings import Settings, parse_settings

FORMAT: Literal[1] = 1  #: Raised when a reader of this module would misread a new file.
MAX_VALUES = 2_000_000  #: Values of one file: 100 rows with five values of 4000 panoramas each.


def _without_missing(figures: Any) -> Any:
    """Leaves out the figures without a value."""
    return (
        {name: value for name, value in figures.items() if value is not None} if isinstance(figures, dict) else figures
    )


#: Name of a figure to its value. A figure without a value (null) is left out.
Figures = Annotated[dict[str, float], BeforeValidator(_without_missing)]


class _Record(Settings):
    """Base of the records: immutable, numbers are finite, unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")


class ResultRow(_Record):
    """One measured row: an ensemble or a student, its settings and its figures."""

    name: str = Field(description="Name of the row; unique together with the seed.", min_length=1)
    kind: Literal["ensemble", "student"] = Field("ensemble", description="What is scored.")
    settings: dict[str, Any] = Field(default_factory=dict, description="JSON value under the title of each column.")
    seed: int | None = Field(None, description="Seed; rows of one name are one row with mean and spread.")
    config: str = Field("", description="Settings file of the row; every stage can be run with it.")
    checkpoint: str | None = Field(None, description="The student's checkpoint.")
    keys: dict[str, str] = Field(default_factory=dict, description="Cache keys by kind of artefact.")
    command: str = Field("", description="Command that makes the row again.")
    failed: int = Field(0, ge=0, description="Number of images that failed.")
    figures: Figures = Field(default_factory=dict, description="Percent; l_cc and residual in nats; images: a number.")
    IoU: Figures = Field(default_factory=dict, description="IoU of each class, percent.")
    panoramas: dict[str, Figures] = Field(default_factory=dict, description="Figures of single panoramas by image id.")
    seconds: Figures = Field(default_factory=dict, description="Measured time of each stage.")


class LiteratureRow(_Record):
    """A published row that is shown beside the measured ones."""

    name: str = Field(description="Name of the method.", min_length=1)
    source: str = Field("", description="Publication and table.")
    figures: Figures = Field(default_factory=dict, description="As in ResultRow.")


class Results(_Record):
    """A results file."""

    format: Literal[1] = FORMAT
    title: str = Field(description="Name of the suite, or of the command.", min_length=1)
    description: str = Field("", description="One or two sentences.")
    manifest: str = Field("", description="Data manifest.")
    splits: tuple[str, ...] = Field((), description="The scored splits; empty: all.")
    columns: tuple[str, ...] = Field((), description="Titles of the varied settings, in order.")
    rows: tuple[ResultRow, ...] = Field((), description="The finished rows.")
    literature: tuple[LiteratureRow, ...] = Field((), description="Published rows beside them.")

    @model_validator(mode="after")
    def _rows_differ(self) -> Results:
        seen = set()
        for row in self.rows:
            if (row.name, row.seed) in seen:
                raise ValueError(f"the row {short_repr(row.name)} with seed {row.seed} occurs twice")
            seen.add((row.name, row.seed))
        return self


def load_results(path: Path) -> Results:
    """Reads a results file. Raises `UserError`, which lists every problem."""
    data = read_json(path, "a results file (JSON) that `ablate` has written", MAX_VALUES)
    return parse_settings(Results, data, str(path))


def save_results(path: Path, results: Results) -> None:
    """Writes a results file atomically."""
    write_text(path, results.model_dump_json(indent=1) + "\n")
