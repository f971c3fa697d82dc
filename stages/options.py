"""Groups of options that commands share. Each field of a group becomes one option, see `stages.commands`.

Nothing heavy is imported at the top, so that help appears at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.core.cli import echo
from pipeline.core.errors import UserError
from pipeline.core.project_files import find_project_file

if TYPE_CHECKING:
    from pipeline.cache import Cache
    from pipeline.data.manifests import Manifest
    from pipeline.execution.executor import Execution
    from stages.config import Config


def option(name: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    """Returns a typer option; `more` are keywords of `typer.Option`."""
    return typer.Option(name, help=help, metavar=metavar, **more)


ConfigOption = Annotated[
    Path | None,
    option(
        "--config",
        "Settings: a YAML file, or the name of one in configs/, e.g. no_sam. Default: all defaults.",
        "FILE",
        envvar="GOODSAM_CONFIG",
    ),
]
SetOption = Annotated[
    list[str] | None, option("--set", "Override one setting, e.g. teacher.views.stride=128. Repeatable.", "KEY=VALUE")
]
CacheOption = Annotated[str | None, option("--cache", "Cache folder or URL instead of the one in the settings.", "URL")]
SplitOption = Annotated[
    list[str] | None, option("--split", "Only this split of the manifest. Repeatable. Default: all.", "NAME")
]
FusionOption = Annotated[
    str | None,
    option("--fusion", "Fusion rule: best, paper, goodsampp, ...; its settings: --set fusion.rule.*.", "RULE"),
]
LabelSpaceOption = Annotated[
    str | None, option("--label-space", "Score in these classes instead of the manifest's.", "NAME")
]
WorkDirOption = Annotated[Path, option("--work-dir", "Results get a folder each below it.", "FOLDER")]
WorkersOption = Annotated[int, option("--workers", "Processes; more than 1 start a local dask cluster.", "N", min=1)]


@dataclass(frozen=True)
class RunOptions:
    """The data set and the settings of a run."""

    manifest: Annotated[
        Path | None,
        option(
            "--manifest",
            "Data set: a YAML file, or the name of one in data_manifests/, e.g. densepass.",
            "FILE",
            envvar="GOODSAM_MANIFEST",
        ),
    ] = None
    config: ConfigOption = None
    set_: SetOption = None
    cache: CacheOption = None

    @property
    def manifest_file(self) -> Path:
        """The manifest's file. Raises `UserError` if it is not given or does not exist."""
        if self.manifest is None:
            example = "--manifest my_panoramas.yaml (MANIFEST=my_panoramas.yaml for make)"
            raise UserError(f"--manifest is missing; expected a data manifest, e.g. {example}")
        return find_project_file("data_manifests", self.manifest.expanduser(), "--manifest")

    @property
    def config_file(self) -> Path | None:
        """The settings file; None for all defaults. Raises `UserError` if it does not exist."""
        return None if self.config is None else find_project_file("configs", self.config.expanduser(), "--config")

    def overrides(self, fusion: str | None = None) -> list[str]:
        """The changes to the settings file, as `a.b=value`; the rule `fusion` comes before its settings."""
        from pipeline.core.settings import sort_overrides
        from stages.config import load_config

        changes = sort_overrides(self.set_ or [])
        rules = [change for change in changes if not change.startswith("fusion.rule.")]
        if fusion is not None and load_config(self.config_file, rules).fusion.rule.kind != fusion:
            changes = sort_overrides([*changes, f"fusion.rule={fusion}"])
        if self.cache is not None:
            changes.append(f"cache={json.dumps(self.cache)}")
        return changes

    def read_settings(self, fusion: str | None = None, *, keep_unset: bool = False) -> Config:
        """The settings with the command line's changes, and the rule `fusion` if it is given.

        With `keep_unset`, `${NAME}` in the settings file stays where the variable is not set; otherwise that is a
        problem. Raises a `UserError` that lists every problem.
        """
        from stages.config import load_config

        path = self.config_file
        with _unset_variables_kept(path) if keep_unset and path is not None else nullcontext():
            return load_config(path, self.overrides(fusion))

    def read(self, fusion: str | None = None) -> tuple[Manifest, Config]:
        """Manifest and settings, with the command line's changes. Raises `UserError`."""
        from pipeline.data.manifests import load_manifest

        path, settings = self.manifest_file, self.read_settings(fusion)
        return load_manifest(path), settings

    def caches(self) -> dict[str, Cache]:
        """The cache of the data set by its name; without a manifest those of all data sets in a local folder.

        Raises `UserError` if there is no such folder, or the cache is not local and there is no manifest.
        """
        from pipeline.cache import Cache
        from pipeline.core.reading import read_yaml

        url = self.read_settings(keep_unset=True).cache
        if "://" not in url and not Path(url).is_dir():
            raise UserError(f"cache {url}: no such folder; expected one that `precompute` has written")
        if self.manifest is not None:
            names = [str(read_yaml(self.manifest_file).get("name", ""))]
        elif "://" in url:
            raise UserError("--manifest is missing; expected one for a cache that is not a local folder")
        else:
            names = sorted(folder.name for folder in Path(url).iterdir() if folder.is_dir())
        return {name: Cache(url, name) for name in names}

    def with_settings(self, changes: Mapping[str, object]) -> RunOptions:
        """The same run with further settings by their place, `{"train.seed": 1}`; None changes nothing."""
        added = [f"{place}={value}" for place, value in changes.items() if value is not None]
        return replace(self, set_=[*(self.set_ or []), *added])


@contextmanager
def _unset_variables_kept(path: Path) -> Iterator[None]:
    """Within it, each `${NAME}` in the file whose variable is not set has itself as its value."""
    text = path.read_text(encoding="utf-8", errors="replace")
    unset = set(re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)) - set(os.environ)
    os.environ.update({name: f"${{{name}}}" for name in unset})
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]


@dataclass(frozen=True)
class LocalExecutionOptions:
    """Processes and threads on this machine."""

    workers: WorkersOption = 1
    threads: Annotated[int, option("--threads", "Images in progress at a time in each process.", "N", min=1)] = 1

    def execution(self) -> Execution:
        """The run's execution settings."""
        from pipeline.execution.executor import Execution

        return Execution(self.workers, self.threads)


@dataclass(frozen=True)
class ExecutionOptions(LocalExecutionOptions):
    """How and where images are computed."""

    scheduler: Annotated[str | None, option("--scheduler", "Address of a running dask scheduler.", "URL")] = None
    shard: Annotated[
        str | None,
        option("--shard", "Only every N-th image, counted from 0; 0/3, 1/3 and 2/3 are all of three.", "I/N"),
    ] = None

    def execution(self) -> Execution:
        """The run's execution settings. Raises `UserError` for a shard that does not exist."""
        from pipeline.execution.executor import Execution, parse_shard

        return Execution(self.workers, self.threads, self.scheduler, parse_shard(self.shard))

    def echo_shard(self) -> None:
        """Prints which shards the run needs besides this one."""
        count = int((self.shard or "0/1").partition("/")[2])
        if count > 1:
            echo(f"shard {self.shard}: the data set needs the shards 0/{count} to {count - 1}/{count}")


def open_cache(data: Manifest, settings: Config) -> Cache:
    """Opens the cache of a data set; prints a line if it is empty."""
    from pipeline.cache import Cache

    cache = Cache(settings.cache, data.name)
    if not cache.artefacts():
        echo(f"nothing is cached in {cache.storage.url}")
    return cache
