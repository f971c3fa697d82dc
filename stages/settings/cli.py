"""Command line of ``settings``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import SetOption, say
from pipeline.settings import Settings


def command(
    config: Annotated[
        Path | None, typer.Option("--config", help="A settings file (YAML); default: all defaults.")
    ] = None,
    set_: SetOption = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="The settings of one component instead, e.g. generator.sam or rule.best."),
    ] = None,
) -> None:
    """Every setting with its value and meaning, as YAML.

    It may be edited and given to --config.
    """
    from pipeline.components import GROUPS, component_class, known_kinds
    from pipeline.config import load_config
    from pipeline.errors import UserError

    if kind is not None:
        group, _, name = kind.partition(".")
        if group not in GROUPS or not name:
            raise UserError(f"--kind {kind}: expected GROUP.NAME with a group of {', '.join(GROUPS)}")
        for line in describe_class(component_class(group, name)):
            say(line)
        return
    for line in describe(load_config(config, set_ or [])):
        say(line)
    say("#")
    for group in GROUPS:
        say(f"# kinds of {group}: {', '.join(known_kinds(group))}  (python -m pipeline settings --kind {group}.NAME)")


def describe(settings: Settings, indent: str = "") -> list[str]:
    """``settings`` as lines of YAML, each value with its description as a comment before it."""
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if field.description:
            lines.append(f"{indent}# {field.description}")
        if isinstance(value, Settings):
            lines += [f"{indent}{name}:", *describe(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_yaml(value)}")
    return lines


def describe_class(cls: type[Settings]) -> list[str]:
    """The settings of a class with their defaults; a setting without one is marked."""
    lines = []
    for name, field in cls.model_fields.items():
        if field.description:
            lines.append(f"# {field.description}")
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        lines.append(f"{name}: {'???  # must be given' if field.is_required() else _yaml(default)}")
    return lines


def _yaml(value: Any) -> str:
    import yaml

    if isinstance(value, Settings):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, Settings) else item for item in value]
    if isinstance(value, Path):
        value = str(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
