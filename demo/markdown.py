"""Markdown of the model cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

#: Columns of a line of text.
WIDTH = 100


def wrap_paragraph(text: str) -> str:
    """Returns the text with lines of at most `WIDTH` columns; runs of white space count as one space."""
    return fill(" ".join(text.split()), WIDTH)


def format_bullets(items: Iterable[str]) -> str:
    """Returns a list, wrapped likewise."""
    return "\n".join(fill(" ".join(item.split()), WIDTH, initial_indent="- ", subsequent_indent="  ") for item in items)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of text cells."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
