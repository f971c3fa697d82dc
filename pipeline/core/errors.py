"""Errors and warnings for the user. Any other exception that escapes is a bug and keeps its traceback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

MAX_PROBLEMS = 20  # problems that one error lists; the others are counted


class UserError(Exception):
    """A run that cannot start or go on, in one sentence: the file, the key, the value found and the value expected.

    The command line prints it without a traceback and exits with status 2.
    """


class ImageError(Exception):
    """One image cannot be processed. The reason is recorded; the run continues with the other images."""


class PipelineWarning(UserWarning):
    """A remark for the user. The command line prints each text once, on one line."""


def raise_problems(source: str, problems: Sequence[str]) -> None:
    """Raises one `UserError` that lists the first `MAX_PROBLEMS` problems; returns if there are none."""
    if not problems:
        return
    lines = [f"  - {problem}" for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"  - and {len(problems) - MAX_PROBLEMS} more")
    raise UserError(f"{source}: {len(problems)} problem{'s' if len(problems) > 1 else ''}\n" + "\n".join(lines))


def print_warnings_once() -> None:
    """Makes each `PipelineWarning` (an old name, an odd image) one line on stderr, printed once."""
    print_others, printed = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, PipelineWarning):
            print_others(message, category, *place, **more)
        elif str(message) not in printed:
            printed.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show
