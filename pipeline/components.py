"""Components: parts of the pipeline that a user may replace by one file of their own.

A component is a frozen settings object that also does the work: its fields are its settings (and so part of the
keys), its methods the behaviour. ``kind: name`` finds the built-in class in the group's package (module ``name``);
``kind: module:Class`` finds one anywhere on the Python path. Component modules must import nothing heavy at the top.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo

from pipeline.errors import UserError
from pipeline.reading import shortened, shown
from pipeline.settings import Settings

#: Where the built-in components of each group live; a module holds one class, named in its ``COMPONENT``.
GROUPS = {
    "generator": "stages.precompute.generators",
    "teacher": "stages.precompute.teachers",
    "rule": "stages.fuse.rules",
}

#: In the module ``base`` of each group: what its components are subclasses of.
BASES = {"generator": "MaskGenerator", "teacher": "Teacher", "rule": "FusionRule"}


class Component(Settings):
    """Base of all components. ``algorithm`` is raised when the same settings begin to give other results."""

    algorithm: ClassVar[int] = 1

    kind: str = Field(description="Name of the component, or module:Class for one of your own.")

    def key_parts(self) -> dict[str, Any]:
        parts = {**super().key_parts(), "kind": self.kind}
        return parts if self.algorithm == 1 else {**parts, "algorithm": self.algorithm}


def component_class(group: str, kind: str) -> type[Component]:
    """The class of component ``kind``. Raises :class:`UserError` if there is none."""
    package, named = GROUPS[group], f"{group} kind {shown(kind)}"
    if ":" in kind:
        module_name, _, attribute = kind.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (Exception, SystemExit) as error:  # a module of the user's may raise anything
            raise UserError(f"{named} cannot be imported: {shortened(error) or type(error).__name__}") from None
    else:
        if kind not in known_kinds(group):
            raise UserError(f"{named} is not known; expected one of {', '.join(known_kinds(group))}, or module:Class")
        found = importlib.import_module(f"{package}.{kind}").COMPONENT
    base = getattr(importlib.import_module(f"{package}.base"), BASES[group])
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{named} is {shown(found)}, expected a subclass of {package}.base.{BASES[group]}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise UserError(f"{named} is abstract; expected a class that has {missing}")
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

    def class_of(value: Any) -> type[Component] | None:
        kind = value.get("kind") if isinstance(value, Mapping) else value
        try:
            return component_class(group, kind) if isinstance(kind, str) else None
        except UserError:
            return None

    validate.class_of = class_of  # type: ignore[attr-defined]  # whose keys the settings tell about an unknown one
    return validate
