"""Components: parts of the pipeline that a user may replace by one file of their own.

A component is a frozen settings object that also does the work: its fields are its settings (and so part of the keys),
its methods the behaviour. Modules of components import nothing heavy at the top.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from pipeline.core.errors import UserError
from pipeline.core.reading import error_text, short_repr
from pipeline.core.settings import Settings


def import_by_name(name: str, key: str) -> Any:
    """Imports `module:object`, the value of the setting `key`. Raises `UserError` if that fails."""
    try:
        if not all(name.partition(":")):
            raise ImportError("expected module:name")
        return pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise UserError(f"{key}: {short_repr(name)} cannot be imported: {error_text(error)}") from error


class Component(Settings):
    """Base of all components. `algorithm` is raised when the same settings begin to give other results."""

    algorithm: ClassVar[int] = 1

    kind: str = Field(description="Name of the component, or module:Class for one of your own.")

    def key_parts(self) -> dict[str, Any]:
        parts = {**super().key_parts(), "kind": self.kind}
        return parts if self.algorithm == 1 else {**parts, "algorithm": self.algorithm}


@dataclass(frozen=True)
class ComponentGroup:
    """Components of one sort, among which a setting chooses: `Annotated[SerializeAsAny[Component], GROUP]`.

    Such a setting is read from `{kind: name, option: ...}` or `name`: a module in `package`, or `module:Class` anywhere
    on the Python path. Without `kind`, the options are those of `default_kind`.

    Attributes:
        package: package of the built-in components. Each module holds one class, named in its `COMPONENT`.
        base: name of the class in the module `base` of `package` that every component of the group subclasses.
        default_kind: the built-in component that is chosen without a setting; None if there is no default.
    """

    name: str
    package: str
    base: str
    default_kind: str | None = None

    def known_kinds(self) -> list[str]:
        """Returns the built-in kinds, sorted."""
        package = importlib.import_module(self.package)
        return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")

    def kinds_with(self, setting: str) -> list[str]:
        """Returns the built-in kinds that have this setting."""
        return [kind for kind in self.known_kinds() if setting in self.component_class(kind).model_fields]

    def component_class(self, kind: str) -> type[Component]:
        """Returns the class of component `kind`. Raises `UserError` if there is none."""
        named = f"{self.name} kind {short_repr(kind)}"
        if ":" in kind:
            component = import_by_name(kind, f"{self.name} kind")
        elif kind in self.known_kinds():
            component = importlib.import_module(f"{self.package}.{kind}").COMPONENT
        else:
            raise UserError(f"{named} is not known; expected one of {', '.join(self.known_kinds())}, or module:Class")
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        if not (isinstance(component, type) and issubclass(component, base)):
            expected = f"a subclass of {self.package}.base.{self.base}"
            raise UserError(f"{named} is {short_repr(component)}, expected {expected}")
        if inspect.isabstract(component):
            missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
            raise UserError(f"{named} is abstract; expected a class that has {missing}")
        return component

    def default(self, kind: str | None = None) -> Component:
        """Returns the component `kind`, by default `default_kind`, with its default settings."""
        kind = kind or self.default_kind
        assert kind is not None
        return self.component_class(kind)(kind=kind)

    def class_of(self, value: Any) -> type[Component] | None:
        """Returns the class of the component that a value of the setting describes; None if there is none."""
        try:
            kind = value.get("kind", self.default_kind) if isinstance(value, Mapping) else value
            return self.component_class(kind) if isinstance(kind, str) else None
        except UserError:
            return None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._read, handler(source))

    def _read(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        kind = value.get("kind", self.default_kind) if isinstance(value, Mapping) else None
        if not isinstance(kind, str):
            raise ValueError(f"expected a mapping with the key 'kind' ({', '.join(self.known_kinds())})")
        try:
            component = self.component_class(kind)
        except UserError as error:
            raise ValueError(str(error)) from None
        return component.model_validate({**value, "kind": kind}, context=info.context)
