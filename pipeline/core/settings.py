"""Typed, frozen settings: read from YAML, overridden by `a.b=c`, printed, and hashed into stable keys.

A setting's documentation stands once, beside the setting. This module knows no particular setting
and computes nothing but hashes of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline.core.errors import UserError, raise_problems
from pipeline.core.hashing import content_digest
from pipeline.core.reading import MAX_DEPTH, load_yaml, shortened, shown, user_path, yaml_reason

SettingsT = TypeVar("SettingsT", bound="Settings")

#: Mark a field with `json_schema_extra=NOT_IN_KEY` if it cannot change a result (batch size, device, ...).
NOT_IN_KEY: dict[str, Any] = {"in_key": False}


def renamed(old_name: str) -> dict[str, Any]:
    """Marks a field that had another name: `json_schema_extra=renamed("old")`.

    The old name is read with a warning, and stays the field's name in keys.
    """
    return {"old_name": old_name}


def renamed_value(old: str, new: str) -> BeforeValidator:
    """A validator that reads `old` as `new` with a warning. Keys hold the old value, see `Settings.key_parts`."""

    def validate(value: Any) -> Any:
        if value != old:
            return value
        warn_of_old_name(old, new)
        return new

    validate.old_values = {new: old}  # type: ignore[attr-defined]
    return BeforeValidator(validate)


class OldNameWarning(FutureWarning):
    """A setting is given by a name that it no longer has."""


def warn_of_old_name(old: str, new: str) -> None:
    """Warns that `old` is the former name of `new`."""
    warnings.warn(f"settings: {old!r} is now named {new!r}; the old name still works", OldNameWarning, stacklevel=2)


class Settings(BaseModel):
    """Base of every settings object: immutable, and an unknown key is an error.

    Numbers are finite, except in fields with `allow_inf_nan=True`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    #: Names of settings that no longer exist, and why. They are read with a warning and have no effect.
    retired: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        current = dict(data)
        for old in [name for name in data if name in cls.retired]:
            del current[old]
            warnings.warn(f"settings: {old!r} has no effect: {cls.retired[old]}", OldNameWarning, stacklevel=2)
        for new, field in cls.model_fields.items():
            old = _extra(field).get("old_name")
            if old is None or old not in data:
                continue
            if new in data:
                raise ValueError(f"{old!r} is the old name of {new!r}; expected one of them")
            warn_of_old_name(old, new)
            current[new] = current.pop(old)
        return current

    def key_parts(self) -> dict[str, Any]:
        """What of this object determines a result, as plain JSON values.

        Fields at their default are left out, so that a new setting with its default keeps old keys. Changing
        a default therefore needs a higher algorithm version; a golden test holds all defaults in place.
        A file (`Path`) enters by the digest of its content.

        Raises:
            UserError: a file is missing, or a value cannot be written as JSON.
        """
        parts: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = _extra(field)
            if extra.get("in_key") is False:
                continue
            value = getattr(self, name)
            changed_code = getattr(value, "algorithm", 1) != 1  # of a component: enters even where it is the default
            if not field.is_required() and value == field.get_default(call_default_factory=True) and not changed_code:
                continue
            parts[extra.get("old_name", name)] = _plain(_old_value(field, value))
        return parts


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _old_value(field: FieldInfo, value: Any) -> Any:
    """The value as keys hold it."""
    for item in field.metadata:
        old_values = getattr(getattr(item, "func", None), "old_values", {})
        if isinstance(value, str) and value in old_values:
            return old_values[value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.key_parts()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"settings: found {value}, which cannot be part of a key; expected a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"sha256": content_digest(value)}
    raise UserError(
        f"settings: found {shown(value)} of type {type(value).__name__}, which cannot be part of a key; expected text, "
        "numbers, lists and mappings"
    )


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no white space: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def _locate(value: Path, info: ValidationInfo) -> Path:
    for name in _VARIABLE.findall(str(value)):
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set; expected a path in it")
    path = user_path(expand_variables(str(value), "a file"))
    folders = (info.context or {}).get("folders", [Path()])
    for folder in folders:
        if os.path.exists(folder / path):
            return (folder / path).absolute()
    return path


def _locate_named(value: str, info: ValidationInfo) -> str:
    return str(_locate(Path(value), info)) if Path(value).suffix in (".yaml", ".yml", ".py") else value


#: The name of something that comes with this project, or a file as `SettingsFile` has it: `.yaml`, `.py`.
NameOrFile = Annotated[str, AfterValidator(_locate_named)]

#: A file that a setting names: `${NAME}` is expanded, a relative path is relative to the YAML file that names it or,
#: where that does not exist, to the working directory. That it exists is checked when it is needed.
SettingsFile = Annotated[Path, AfterValidator(_locate)]


# --------------------------------------------------------------------------------------------------------------
# Reading


def parse_settings(
    cls: type[SettingsT], data: Mapping[str, Any], source: str, *, folders: Sequence[Path] = ()
) -> SettingsT:
    """`data` as `cls`; every problem at once, each with its place in `source`.

    Relative files (fields of type `SettingsFile`) are looked for in `folders`, then in the working directory.
    """
    try:
        return cls.model_validate(dict(data), context={"folders": [*folders, Path()]})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise_problems(shortened(source), [_sentence(cls, data, problem) for problem in problems])
        raise  # unreachable: a ValidationError has at least one problem


def _sentence(cls: type[Settings], data: Any, problem: Mapping[str, Any]) -> str:
    place = ".".join(shortened(part, 60) for part in problem["loc"]) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(cls, data, problem["loc"][:-1])
        expected = f"expected one of: {', '.join(known)}" if known else "expected no such key"
        return shortened(f"{shortened(place)}: unknown key; {expected}", 1000)
    if problem["type"] == "missing":
        return f"{shortened(place)}: is missing"
    message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
    found = shown(problem["input"])
    return shortened(f"{shortened(place)}: found {found}; {message[0].lower()}{message[1:]}", 500)


def _known_keys(cls: type[Settings], data: Any, loc: Sequence[Any]) -> list[str]:
    """The keys of the section at `loc`, which for a component depend on what `data` says it is."""
    current: Any = cls
    for part in loc:
        known = getattr(current, "model_fields", {})
        field = known.get(part)
        if field is not None:
            annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        else:  # an entry of a mapping or a sequence
            annotation = current
        try:
            data = data[part]
        except (LookupError, TypeError):
            data = None
        current = _section(annotation, data)
    return sorted(getattr(current, "model_fields", {}))


def _section(annotation: Any, data: Any) -> Any:
    """Of a field's type the class that describes its keys; of containers, that of their entries."""
    metadata = getattr(annotation, "__metadata__", ())
    chosen = (getattr(getattr(item, "func", None), "class_of", None) for item in metadata)
    for class_of in filter(None, chosen):
        if (found := class_of(data)) is not None:
            return found
    if hasattr(annotation, "model_fields"):
        return annotation
    inner = (_section(argument, data) for argument in get_args(annotation)[: 1 if metadata else None])
    return next((found for found in inner if found is not None), None)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with each `a.b=value` (value in YAML) put in its place; `data` itself stays as it is.

    A component that is named by its kind alone becomes a section when one of its settings is changed.
    """
    result = _copied(data)
    for override in overrides:
        place, separator, text = override.partition("=")
        option = f"--set {shortened(override, 200)}"
        *parents, last = place.strip().split(".")
        if not separator or not last or not all(parents):
            raise UserError(f"{option}: expected the form section.key=value")
        if len(parents) > MAX_DEPTH:
            raise UserError(f"{option}: names a section deeper than {MAX_DEPTH}")
        try:
            value = load_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"{option}: the value {shown(text)} is not valid YAML: {yaml_reason(error)}") from None
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if isinstance(child, str):
                child = node[parent] = {"kind": child}
            if not isinstance(child, dict):
                raise UserError(f"{option}: {shortened(parent, 80)!r} holds {shown(child)}, expected a section")
            node = child
        node[last] = _copied(value)
    return result


def _copied(value: Any) -> Any:
    """A deep copy in which nothing occurs twice: what an alias repeats is changed in one place alone."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def outer_first(overrides: Sequence[str]) -> list[str]:
    """`a=...` before `a.b=...`, else in the order given: replacing a section undoes no change inside it."""
    return sorted(overrides, key=lambda override: override.partition("=")[0].count("."))


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand_variables(text: str, source: str) -> str:
    """`text` with every `${NAME}` replaced by that environment variable; an unset one is an error."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(f"{source}: found {shown(text, 200)}, but the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(value, text)
