"""The command line: finds the commands, parses, calls, and turns errors into one sentence.

A stage is a package in `stages/` whose module `cli` has a function `command`; the function's signature gives the
options, its docstring the help. Other packages add commands by the entry point group `goodsam.commands`. None of these
modules imports anything heavy at the top, so that help appears at once.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points, version
from typing import Annotated, Any, get_type_hints

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, Result, messages_on_stderr, print_json
from pipeline.core.errors import ImageError, UserError, print_warnings_once

#: The stages in the order in which they are used; commands of other packages come before them.
ORDER = (
    *("precompute", "fuse", "train", "evaluate", "predict", "labels", "corrections", "export"),
    *("adapt", "ablate", "paper", "report"),
    *("view", "inspect", "verify", "gc", "migrate", "settings", "doctor"),
)

#: What a system refuses without the program being wrong.
ENVIRONMENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

INTERRUPTED = 130  #: Exit status of typer after Ctrl-C (128 + SIGINT).

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON on stdout, and everything else on stderr.")
]


def stage_function(stage: str, name: str = "") -> Callable[..., Any]:
    """Returns the function `name` (default: the stage's own name) of a stage's module `stage`.

    Stages that call others find them here, because no stage imports another.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(f"stages.{stage}.stage"), name or stage)
    return function


def make_app() -> typer.Typer:
    """Returns the command line with all commands."""
    app = typer.Typer(
        help="Pseudo-labels for 360-degree panoramas from SAM and any semantic model, and students trained on them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        # help is as wide as the terminal
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 1000},
    )
    app.callback()(_options_before_the_command)
    for entry_point in sorted(entry_points(group="goodsam.commands"), key=lambda entry_point: entry_point.name):
        app.command(entry_point.name)(typer_command(entry_point.load()))
    names = [module.name for module in pkgutil.iter_modules(importlib.import_module("stages").__path__) if module.ispkg]
    for name in sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        if importlib.util.find_spec(f"stages.{name}.cli") is not None:
            app.command(name)(typer_command(importlib.import_module(f"stages.{name}.cli").command))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"goodsam {version('goodsam-offline')}")
        raise typer.Exit


def _options_before_the_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Takes the options of `goodsam` itself; they act by their callbacks."""


def typer_command(command: Callable[..., Result | None]) -> Callable[..., None]:
    """Returns `command` with the signature that typer reads.

    A parameter whose type is a dataclass becomes one option for each field. A command that returns a `Result` gets the
    option `--json` and the exit status for failed images.
    """
    hints: dict[str, Any] = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    groups.pop("return", None)
    options: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            options |= {field.name: (types[field.name], field.default) for field in fields(groups[name])}
        else:
            options[name] = (hints[name], parameter.default)
    if hints.get("return") is not type(None):
        options["json_"] = (JsonOption, False)

    def call(**values: Any) -> None:
        as_json = values.pop("json_", False)
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        with messages_on_stderr() if as_json else nullcontext():
            result = command(**values)
        if result is not None and as_json:
            print_json(result.figures)
        if result is not None and result.failed:
            raise typer.Exit(result.failed_status)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]
    call.__doc__ = command.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def main() -> None:
    """Runs the command line; an error for the user becomes one sentence on stderr.

    The exit status is 2 for a refused run, a full disk or a missing permission, and 3 if an image failed in a stage
    that takes all images or none (`train`).
    """
    print_warnings_once()
    sys.path.append(os.getcwd())  # at the end: components of the user are found, and nothing is replaced
    try:
        make_app()(prog_name="goodsam")
    except (UserError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else SOME_IMAGES_FAILED)
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRNOS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; finished work is kept", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer turns the KeyboardInterrupt into an exit status
            print("stopped; finished work is kept, and the same command continues from there", file=sys.stderr)
        raise
