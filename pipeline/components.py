"""Components: parts of the pipeline that a user may replace by one file of their own.

A component is a frozen settings object that also does the work: its fields are its settings (and so part of the
keys), its methods the behaviour. ``kind: name`` finds the built-in class in the group's package (module ``name``);
``kind: module:Class`` finds one anywhere on the Python path. Component modules must import nothing heavy at the top.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo

from pipeline.errors import UserError
from pipeline.settings import Settings

#: Where the built-in components of each group live; a module holds one class, named in its ``COMPONENT``.
GROUPS = {
    "generator": "stages.precompute.generators",
    "teacher": "stages.precompute.teachers",
    "rule": "stages.fuse.rules",
}


class Component(Settings):
    """Base of all components. ``algorithm`` is raised when the same settings begin to give other results."""

    algorithm: ClassVar[int] = 1

    kind: str = Field(description="Name of the component, or module:Class for one of your own.")

    def key_parts(self) -> dict[str, Any]:
        parts = {**super().key_parts(), "kind": self.kind}
        return parts if self.algorithm == 1 else {**parts, "algorithm": self.algorithm}


def component_class(group: str, kind: str) -> type[Component]:
    """The class of component ``kind``. Raises :class:`UserError` if there is none."""
    package = GROUPS[group]
    if ":" in kind:
        module_name, _, attribute = kind.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{group} kind {kind!r} cannot be imported: {error}") from None
    else:
        if not kind.isidentifier() or importlib.util.find_spec(f"{package}.{kind}") is None:
            raise UserError(
                f"{group} kind {kind!r} is not known; expected one of {', '.join(known_kinds(group))}, or module:Class"
            )
        found = importlib.import_module(f"{package}.{kind}").COMPONENT
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise UserError(f"{group} kind {kind!r} is {found!r}, expected a subclass of pipeline.components.Component")
    return found


def default_component(group: str, kind: str) -> Component:
    """The built-in component ``kind`` with its default settings."""
    return component_class(group, kind)(kind=kind)


def known_kinds(group: str) -> list[str]:
    """The built-in kinds of ``group``, sorted."""
    import pkgutil

    package = importlib.import_module(GROUPS[group])
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def component_validator(group: str) -> Any:
    """A pydantic "before" validator that turns ``{kind: ..., option: ...}`` or ``"kind"`` into the component."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise ValueError(f"expected a mapping with the key 'kind' ({', '.join(known_kinds(group))})")
        try:
            cls = component_class(group, value["kind"])
        except UserError as error:
            raise ValueError(str(error)) from None
        return cls.model_validate(value, context=info.context)

    return validate
