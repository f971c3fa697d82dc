"""The command line: finds the stages, parses, calls, and turns errors into one sentence.

A stage is a package in ``stages/`` whose module ``cli`` has a function ``command``; its signature is the stage's
options, its docstring the help. Those modules import nothing heavy at the top, so the help comes at once.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import Config, load_config
from pipeline.errors import ImageError, UserError
from pipeline.executor import Execution, parse_shard
from pipeline.manifests import Manifest, load_manifest
from pipeline.settings import outer_first

#: The project's own folder, where the demo's manifest and settings are.
ROOT = Path(__file__).resolve().parents[1]

#: Exit status when single images failed and the rest is done; 2 stands for a refused run.
SOME_IMAGES_FAILED = 3

#: What a system refuses without the program being wrong.
NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

#: Exit status of typer after Ctrl-C (128 + SIGINT).
INTERRUPTED = 130

ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        help="Data manifest (YAML); see data_manifests/. Default: the demo's, if --config is not given either.",
        envvar="MANIFEST",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings (YAML); see configs/. Default: the demo's, if --manifest is not given either.",
        envvar="CONFIG",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one setting, e.g. teacher.views.stride=128. Repeatable."),
]
CacheOption = Annotated[str | None, typer.Option("--cache", help="Cache folder or URL instead of the config's.")]
SplitOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Only this split of the manifest. Repeatable. Default: all."),
]
FusionOption = Annotated[
    str | None,
    typer.Option("--fusion", help="Fusion rule: best, paper, goodsampp, ...; its options: --set fusion.rule.*."),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes; more than 1 starts a dask cluster.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Images at a time in each process.")]
SchedulerOption = Annotated[str | None, typer.Option("--scheduler", help="Address of a running dask scheduler.")]
ShardOption = Annotated[
    str | None, typer.Option("--shard", help="i/n: only every n-th image. Counts from 0: 0/3, 1/3, 2/3.")
]


def read_run(
    manifest: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    cache: str | None,
    fusion: str | None = None,
) -> tuple[Manifest, Config]:
    """Manifest and settings of a run, with the command line's changes applied."""
    manifest, config = with_demo(manifest, config)
    settings = load_config(config, run_overrides(config, overrides, cache, fusion))
    return load_manifest(manifest), settings


def with_demo(manifest: Path | None, config: Path | None) -> tuple[Path, Path | None]:
    """The manifest and settings as given; where neither is, those of the demo world.

    Raises :class:`UserError` if there are settings without a manifest, or the demo world is not rendered.
    """
    if manifest is not None:
        return manifest.expanduser(), config and config.expanduser()
    if config is not None:
        raise UserError(
            "--manifest is missing (MANIFEST=... for make): expected a data manifest such as "
            "data_manifests/my_panoramas.yaml; the README shows how to write one"
        )
    if not (ROOT / "demo_world").is_dir():
        raise UserError(
            "the demo world, the default data, is not rendered yet: run `make demo` or `python -m demo --world-only`, "
            "or pass your own data with --manifest (MANIFEST=... for make)"
        )
    return ROOT / "data_manifests" / "demo.yaml", ROOT / "configs" / "demo.yaml"


def run_overrides(
    config: Path | None, overrides: list[str] | None, cache: str | None, fusion: str | None = None
) -> list[str]:
    """The command line's changes to the settings, as ``a.b=value`` texts; the rule comes before its settings."""
    changes = outer_first(overrides or [])
    rules = [change for change in changes if not change.startswith("fusion.rule.")]
    if fusion is not None and load_config(config, rules).fusion.rule.kind != fusion:
        changes = outer_first([*changes, f"fusion.rule={fusion}"])
    if cache is not None:
        changes.append(f"cache={json.dumps(cache)}")
    return changes


def execution(workers: int, threads: int, scheduler: str | None, shard: str | None) -> Execution:
    """The run's execution settings."""
    return Execution(workers, threads, scheduler, parse_shard(shard))


def say(text: str) -> None:
    """Prints for the user."""
    typer.echo(text)


def say_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Prints a table; the first column is left-aligned, the others right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def say_json(figures: dict[str, Any]) -> None:
    """The last line of every command that measures: its figures as one line of JSON."""
    typer.echo(json.dumps(figures, ensure_ascii=False))


def stage_function(stage: str, name: str = "") -> Callable[..., Any]:
    """What ``stage`` is called by from Python: ``name`` (none: the stage's own name) in its module ``stage``.

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
    for module in pkgutil.iter_modules(stages.__path__):
        name = f"stages.{module.name}.cli"
        if importlib.util.find_spec(name) is not None:
            app.command(module.name)(importlib.import_module(name).command)
    return app


def main() -> None:
    """Runs the command line; an error for the user becomes one sentence on stderr.

    The exit status is 2, of an image that went bad within a stage that takes all of them or none (``train``) 3. A disk
    that is full or may not be written is no bug either.
    """
    try:
        make_app()()
    except (UserError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else SOME_IMAGES_FAILED)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; what was finished is kept", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer swallows the KeyboardInterrupt itself
            print("stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise
