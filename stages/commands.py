"""The command line: finds the stages, parses, calls, and turns errors into one sentence.

A stage is a package in `stages/` whose module `cli` has a function `command`; its signature is the stage's
options, its docstring the help. Those modules import nothing heavy at the top, so the help comes at once.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from pipeline.core.errors import ImageError, UserError

#: The project's own folder, where the demo's manifest and settings are.
ROOT = Path(__file__).resolve().parents[1]

#: Exit status when single images failed and the rest is done; 2 stands for a refused run.
SOME_IMAGES_FAILED = 3

#: What a system refuses without the program being wrong.
ENVIRONMENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

#: Exit status of typer after Ctrl-C (128 + SIGINT).
INTERRUPTED = 130


def stage_function(stage: str, name: str = "") -> Callable[..., Any]:
    """What `stage` is called by from Python: `name` (none: the stage's own name) in its module `stage`.

    Stages that go through others find them here, because no stage imports another.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(f"stages.{stage}.stage"), name or stage)
    return function


def make_app() -> typer.Typer:
    """The command line with a command for every stage."""
    app = typer.Typer(
        help="Pseudo-labels for 360-degree panoramas from SAM and any semantic model, and the student they train.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    stages = importlib.import_module("stages")
    for module in [module for module in pkgutil.iter_modules(stages.__path__) if module.ispkg]:
        name = f"stages.{module.name}.cli"
        if importlib.util.find_spec(name) is not None:
            app.command(module.name)(importlib.import_module(name).command)
    return app


def main() -> None:
    """Runs the command line; an error for the user becomes one sentence on stderr.

    The exit status is 2, of an image that went bad within a stage that takes all of them or none (`train`) 3. A disk
    that is full or may not be written is no bug either.
    """
    try:
        make_app()()
    except (UserError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else SOME_IMAGES_FAILED)
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRNOS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; what was finished is kept", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer swallows the KeyboardInterrupt itself
            print("stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise
