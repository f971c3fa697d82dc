"""The options that commands share, and what they say: manifest, settings, execution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError
from pipeline.core.settings import outer_first
from pipeline.data.manifests import Manifest, load_manifest
from pipeline.execution.executor import Execution, parse_shard
from stages.config import Config, load_config

#: The project's own folder, where the demo's manifest and settings are.
ROOT = Path(__file__).resolve().parents[1]

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

    Raises `UserError` if there are settings without a manifest, or the demo world is not rendered.
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
    """The command line's changes to the settings, as `a.b=value` texts; the rule comes before its settings."""
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
