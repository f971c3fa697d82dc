"""What commands print and report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipeline.core.project_files import PROJECT_ROOT

SOME_IMAGES_FAILED = 3  # exit status when single images failed and the rest is done; 2 means that a run was refused
HINTS_VARIABLE = "GOODSAM_HINTS"  # set to 0 by commands that run others: no hints what to do next
FILE_WIDTH = 140  # characters of a table's row in a file
UNBROKEN, TITLE_WIDTH = 14, 10  # cells, and lines of a column's title, of at most this many characters are not broken

echo = typer.echo  # prints for the user


@dataclass(frozen=True)
class Result:
    """What a command reports.

    Attributes:
        figures: Plain JSON values, printed as one line of JSON by `--json`.
        failed: Whether the exit status is `failed_status`: some images failed, and the rest is done.
        failed_status: The exit status in this case.
    """

    figures: dict[str, Any]
    failed: bool = False
    failed_status: int = SOME_IMAGES_FAILED


def echo_hint(text: str) -> None:
    """Prints which command may follow, if the user called this one directly."""
    if os.environ.get(HINTS_VARIABLE) != "0":
        echo(f"next: {text}")


def print_json(figures: dict[str, Any]) -> None:
    """Prints `figures` as one line of JSON."""
    echo(json.dumps(figures, ensure_ascii=False))


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Within it, what this process and its children print on stdout goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `goodsam ARGUMENTS` without hints in a process of its own; `options` are those of `subprocess.run`."""
    environment = {**os.environ, HINTS_VARIABLE: "0"}
    if PROJECT_ROOT.name != "site-packages":  # a checkout: the same one in the other process
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    # -P: a file pipeline.py in the working directory does not replace the package
    command = [sys.executable, "-P", "-m", "pipeline", *arguments]
    return subprocess.run(command, env=environment, text=True, check=False, **options)


def free_mib(url: str) -> float | None:
    """Free space in MiB where a folder is or would be; None for the URL of an object store."""
    if "://" in url:
        return None
    folder = Path(url).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**20


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table, floats with two digits. Long text is folded; numbers are not, and are right-aligned.

    Columns beyond the terminal's width follow in a second table below.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    titles = [_fold_title(column) for column in columns]
    longest = [max(map(len, [*text.split("\n"), *body])) for text, *body in zip(titles, *cells, strict=True)]
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH)
    # a border and two spaces per column, and the last border
    available = console.width - 1 - 3 - min(longest[0], 2 * UNBROKEN)
    tables: list[list[int]] = [[]]
    for index in range(1, len(columns)):
        if tables[-1] and sum(min(longest[k], UNBROKEN) + 3 for k in [*tables[-1], index]) > available:
            tables.append([])
        tables[-1].append(index)
    console.print(Text(title, "bold"))  # a title of the table itself would be folded at the table's width
    for indices in tables:
        table = Table()
        table.add_column(titles[0], overflow="fold", no_wrap=longest[0] <= 2 * UNBROKEN)
        for index in indices:
            short = longest[index] <= UNBROKEN
            table.add_column(titles[index], justify="right" if short else "left", overflow="fold", no_wrap=short)
        for row in cells:
            table.add_row(*(row[index] for index in [0, *indices]))
        console.print(table, markup=False)


def _fold_title(title: str) -> str:
    """The words of a title in lines of `TITLE_WIDTH`, also broken after hyphens."""
    lines = textwrap.wrap(title.replace("-", "- "), TITLE_WIDTH, break_long_words=False)
    return "\n".join(line.replace("- ", "-") for line in lines)
