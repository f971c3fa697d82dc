"""What a command prints."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

#: Exit status when single images failed and the rest is done; 2 stands for a refused run.
SOME_IMAGES_FAILED = 3


def echo(text: str) -> None:
    """Prints for the user."""
    typer.echo(text)


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Prints a table; the first column is left-aligned, the others right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def print_json(figures: dict[str, Any]) -> None:
    """The last line of every command that measures: its figures as one line of JSON."""
    typer.echo(json.dumps(figures, ensure_ascii=False))
