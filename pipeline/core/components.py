"""Components: parts of the pipeline that a user may replace by one file of their own.

A component is a frozen settings object that also does the work: its fields are its settings (and so part of the
keys), its methods the behaviour. `kind: name` finds the built-in class in the group's package (module `name`);
`kind: module:Class` finds one anywhere on the Python path. Component modules must import nothing heavy at the top.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo

from pipeline.core.errors import UserError
from pipeline.core.reading import shortened, shown
from pipeline.core.settings import Settings


class Component(Settings):
    """Base of all components. `algorithm` is raised when the same settings begin to give other results."""

    algorithm: ClassVar[int] = 1

    kind: str = Field(description="Name of the component, or module:Class for one of your own.")

    def key_parts(self) -> dict[str, Any]:
        parts = {**super().key_parts(), "kind": self.kind}
        return parts if self.algorithm == 1 else {**parts, "algorithm": self.algorithm}


@dataclass(frozen=True)
class ComponentGroup:
    """Components of one sort.

    Attributes:
        name: name of the group, for messages.
        package: package of the built-in components. A module holds one class, named in its `COMPONENT`.
        base: name of the class in the module `base` of `package` that every component of the group subclasses.
    """

    name: str
    package: str
    base: str

    def known_kinds(self) -> list[str]:
        """The built-in kinds, sorted."""
        package = importlib.import_module(self.package)
        return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")

    def component_class(self, kind: str) -> type[Component]:
        """The class of component `kind`. Raises `UserError` if there is none."""
        named = f"{self.name} kind {shown(kind)}"
        if ":" in kind:
            try:
                component = pkgutil.resolve_name(kind)
            except (Exception, SystemExit) as error:  # a module of the user's may raise anything
                raise UserError(f"{named} cannot be imported: {shortened(error) or type(error).__name__}") from None
        else:
            if kind not in self.known_kinds():
                known = ", ".join(self.known_kinds())
                raise UserError(f"{named} is not known; expected one of {known}, or module:Class")
            component = importlib.import_module(f"{self.package}.{kind}").COMPONENT
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        if not (isinstance(component, type) and issubclass(component, base)):
            raise UserError(f"{named} is {shown(component)}, expected a subclass of {self.package}.base.{self.base}")
        if inspect.isabstract(component):
            missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
            raise UserError(f"{named} is abstract; expected a class that has {missing}")
        return component

    def default(self, kind: str) -> Component:
        """The built-in component `kind` with its default settings."""
        return self.component_class(kind)(kind=kind)

    def validator(self) -> BeforeValidator:
        """A pydantic validator that turns `{kind: ..., option: ...}` or `"kind"` into the component."""

        def validate(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, Component):
                return value
            if isinstance(value, str):
                value = {"kind": value}
            if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
                raise ValueError(f"expected a mapping with the key 'kind' ({', '.join(self.known_kinds())})")
            try:
                component = self.component_class(value["kind"])
            except UserError as error:
                raise ValueError(str(error)) from None
            return component.model_validate(value, context=info.context)

        def class_of(value: Any) -> type[Component] | None:
            kind = value.get("kind") if isinstance(value, Mapping) else value
            try:
                return self.component_class(kind) if isinstance(kind, str) else None
            except UserError:
                return None

        validate.class_of = class_of  # type: ignore[attr-defined]  # names the known keys beside an unknown one
        return BeforeValidator(validate)
