"""Command line of `settings`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic_core import to_jsonable_python

from pipeline.core.cli import Result, echo
from pipeline.core.settings import Settings
from stages.options import ConfigOption, RunOptions, SetOption, option


def command(
    config: ConfigOption = None,
    set_: SetOption = None,
    kind: Annotated[
        str | None,
        option("--kind", "The settings of one component instead, e.g. generator.sam or rule.best.", "GROUP.NAME"),
    ] = None,
) -> Result:
    """Prints every setting with its value and meaning, as YAML.

    The output can be edited and given to --config.
    """
    from pipeline.core.errors import UserError
    from stages.config import COMPONENTS

    if kind is not None:
        group, _, name = kind.partition(".")
        if group not in COMPONENTS or not name:
            raise UserError(f"--kind {kind}: expected GROUP.NAME with a group of {', '.join(COMPONENTS)}")
        component = COMPONENTS[group].component_class(name)
        for line in describe_class(component):
            echo(line)
        return Result({"stage": "settings", "settings": to_jsonable_python(_defaults(component))})
    settings = RunOptions(config=config, set_=set_).read_settings(keep_unset=True)
    for line in describe(settings):
        echo(line)
    echo("#")
    for name, components in COMPONENTS.items():
        echo(f"# kinds of {name}: {', '.join(components.known_kinds())}  (goodsam settings --kind {name}.NAME)")
    return Result({"stage": "settings", "settings": to_jsonable_python(settings)})


def describe(settings: Settings, indent: str = "") -> list[str]:
    """`settings` as lines of YAML, each value with its description as a comment before it."""
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if field.description:
            lines.append(f"{indent}# {field.description}")
        if isinstance(value, Settings):
            lines += [f"{indent}{name}:", *describe(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_one_line_yaml(value)}")
    return lines


def describe_class(cls: type[Settings]) -> list[str]:
    """The settings of a class with their defaults as lines of YAML; `???` marks a setting without a default."""
    lines = []
    defaults = _defaults(cls)
    for name, field in cls.model_fields.items():
        if field.description:
            lines.append(f"# {field.description}")
        lines.append(f"{name}: {'???  # must be given' if field.is_required() else _one_line_yaml(defaults[name])}")
    return lines


def _defaults(cls: type[Settings]) -> dict[str, Any]:
    """The default of every setting of a class; None if it must be given."""
    fields = cls.model_fields.items()
    return {name: None if f.is_required() else f.get_default(call_default_factory=True) for name, f in fields}


def _one_line_yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
