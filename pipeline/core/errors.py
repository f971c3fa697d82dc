"""Errors that a user meets. Everything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """One clear sentence for the user: the file, the key, what was found and what was expected.

    The command line prints it without a traceback and exits with status 2, before any work has started.
    """


class ImageError(Exception):
    """One image cannot be processed. It is recorded with this reason; the other images go on."""


def raise_problems(what: str, problems: Iterable[str]) -> None:
    """Raises one `UserError` that lists every problem; returns silently if there are none."""
    found = list(problems)
    if not found:
        return
    shown = [f"  - {problem}" for problem in found[:20]]
    if len(found) > 20:
        shown.append(f"  - and {len(found) - 20} more")
    raise UserError(f"{what}: {len(found)} problem{'s' if len(found) > 1 else ''}\n" + "\n".join(shown))
