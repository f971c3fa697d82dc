"""Typed, frozen settings: read from YAML, overridden by `a.b=c`, printed, and hashed into stable keys.

Each setting is documented by its field's description. This module defines no particular setting.
"""

from __future__ import annotations

import difflib
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
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

from pipeline.core.errors import PipelineWarning, UserError, raise_problems
from pipeline.core.hashing import content_digest
from pipeline.core.reading import MAX_DEPTH, load_yaml, short_repr, shorten, user_path, yaml_reason

SettingsT = TypeVar("SettingsT", bound="Settings")

#: Marks a field that cannot change a result (batch size, device): `json_schema_extra=NOT_IN_KEY`.
NOT_IN_KEY: dict[str, Any] = {"in_key": False}


def renamed(old_name: str) -> dict[str, Any]:
    """Marks a field that had another name: `json_schema_extra=renamed("old")`.

    The old name is read with a warning. Keys hold the old name, so that existing caches stay valid.
    """
    return {"old_name": old_name}


def renamed_value(old: str, new: str) -> dict[str, Any]:
    """Marks a field whose value `new` was called `old`; it is read and hashed as `renamed` does with names."""
    return {"old_value": old, "new_value": new}


class OldNameWarning(PipelineWarning):
    """A setting is given by a name that it no longer has."""


def _warn_of_old_name(old: str, new: str) -> None:
    warnings.warn(f"settings: {old!r} is now named {new!r}; the old name still works", OldNameWarning, stacklevel=2)


class Settings(BaseModel):
    """Base of every settings object: immutable; unknown keys and numbers that are not finite are errors.

    Attributes:
        retired: names of former settings with the reason why they have no effect. They are read with a warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    retired: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        for name in set(data) & set(cls.retired):
            del data[name]
            warnings.warn(f"settings: {name!r} has no effect: {cls.retired[name]}", OldNameWarning, stacklevel=2)
        for name, field in cls.model_fields.items():
            marks = _marks(field)
            old = marks.get("old_name")
            if old is not None and old in data:
                if name in data:
                    raise ValueError(f"{old!r} is the old name of {name!r}; expected one of them")
                data[name] = data.pop(old)
                _warn_of_old_name(old, name)
            if "old_value" in marks and data.get(name) == marks["old_value"]:
                data[name] = marks["new_value"]
                _warn_of_old_name(marks["old_value"], marks["new_value"])
        return data

    def key_parts(self) -> dict[str, Any]:
        """Returns the settings that determine a result, as plain JSON values.

        Fields at their default are left out, so that a new setting with its default keeps existing keys. A changed
        default therefore needs a higher algorithm version. A file (`Path`) enters by the digest of its content.
        Raises `UserError` if a file is missing, or a value cannot be written as JSON.
        """
        parts: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            marks, value = _marks(field), getattr(self, name)
            # a component with a higher algorithm version enters the key even if it is the default
            is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
            if marks.get("in_key", True) and not (is_default and getattr(value, "algorithm", 1) == 1):
                value = marks["old_value"] if "old_value" in marks and value == marks["new_value"] else value
                parts[marks.get("old_name", name)] = _json_value(value)
        return parts


def _marks(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _json_value(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.key_parts()
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"settings: found {value}, which cannot be part of a key; expected a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"sha256": content_digest(value)}
    reason = "which cannot be part of a key; expected text, numbers, lists and mappings"
    raise UserError(f"settings: found {short_repr(value)} of type {type(value).__name__}, {reason}")


def canonical_json(value: Any) -> str:
    """Returns `value` as JSON with sorted keys and no white space: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def _locate(value: Path, info: ValidationInfo) -> Path:
    path = user_path(expand_variables(str(value)))
    folders = (info.context or {}).get("folders", [Path()])
    return next(((folder / path).absolute() for folder in folders if os.path.exists(folder / path)), path)


def _locate_named(value: str, info: ValidationInfo) -> str:
    return str(_locate(Path(value), info)) if Path(value).suffix in (".yaml", ".yml", ".py") else value


#: The name of something that comes with this project, or a file (`.yaml`, `.py`) as in `SettingsFile`.
NameOrFile = Annotated[str, AfterValidator(_locate_named)]

#: A file. `${NAME}` is expanded. A relative path is relative to the YAML file that names it or, if there is no such
#: file, to the working directory. A missing file is an error only when it is read.
SettingsFile = Annotated[Path, AfterValidator(_locate)]


def parse_settings(
    cls: type[SettingsT], data: Mapping[str, Any], source: str, *, folders: Sequence[Path] = ()
) -> SettingsT:
    """Validates `data`, plain values from `source`, as `cls`.

    Relative files (`SettingsFile`) are looked for in `folders`, then in the working directory.
    Raises `UserError`, which lists every problem with its place.
    """
    try:
        return cls.model_validate(dict(data), context={"folders": [*folders, Path()]})
    except ValidationError as error:
        raise_problems(shorten(source), [_sentence(cls, data, problem) for problem in error.errors(include_url=False)])
        raise  # unreachable: a ValidationError has at least one problem


def _sentence(cls: type[Settings], data: Any, problem: Mapping[str, Any]) -> str:
    place = shorten(".".join(shorten(part, 60) for part in problem["loc"]) or "(top level)")
    if problem["type"] == "extra_forbidden":
        return shorten(f"{place}: unknown key; {_expected_keys(cls, data, problem['loc'])}", 1000)
    if problem["type"] == "missing":
        return f"{place}: is missing"
    message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
    return shorten(f"{place}: found {short_repr(problem['input'])}; {message[0].lower()}{message[1:]}", 500)


def _expected_keys(cls: type[Settings], data: Any, place: Sequence[Any]) -> str:
    """Returns the keys that are possible instead of the last one in `place`, as words for messages."""
    section: Any = cls
    group = None
    for name in place[:-1]:
        try:
            data = data[name]
        except (LookupError, TypeError):
            data = None
        annotation = _annotation(section, name)
        section, group = _settings_class(annotation, data), _component_group(annotation)
    key, names = str(place[-1]), sorted(getattr(section, "model_fields", {}))
    similar = difflib.get_close_matches(key[:80], names, n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    if group is not None and (kinds := group.kinds_with(key)):
        hint = f"; {key} is a setting of {', '.join(kinds)}"
    return f"expected one of: {', '.join(names)}{hint}" if names else "expected no such key"


def _annotation(section: Any, name: Any) -> Any:
    """Returns the type of a setting; in a container, the type of its entries."""
    field = getattr(section, "model_fields", {}).get(name)
    if field is None:
        return section
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _component_group(annotation: Any) -> Any:
    """Returns the `ComponentGroup` in the metadata of a type; None without one."""
    groups = [item for item in getattr(annotation, "__metadata__", ()) if hasattr(item, "class_of")]
    return groups[0] if groups else next(filter(None, map(_component_group, get_args(annotation))), None)


def _settings_class(annotation: Any, data: Any) -> Any:
    """Returns the class that describes the keys of `data`, which is a value of this type; None without one."""
    group = _component_group(annotation)
    if group is not None and (cls := group.class_of(data)) is not None:
        return cls
    if hasattr(annotation, "model_fields"):
        return annotation
    arguments = get_args(annotation)[: 1 if hasattr(annotation, "__metadata__") else None]
    return next(filter(None, (_settings_class(argument, data) for argument in arguments)), None)


def apply_overrides(
    data: Mapping[str, Any], overrides: Sequence[str], cls: type[Settings] = Settings
) -> dict[str, Any]:
    """Returns a copy of `data` with the value of each override `a.b=value` (value in YAML) in its place.

    A component that `data` names by its kind alone becomes a section when one of its settings is overridden. Old names
    of the settings in `cls` are replaced along the way, so that an old name in `data` and a new one in an override, or
    the reverse, mean the same setting.

    Raises `UserError` if an override has another form, no valid YAML, or a place inside a value that is no section.
    """
    result = _copy(data)
    for override in overrides:
        place, separator, text = override.partition("=")
        option = f"--set {shorten(override, 200)}"
        names = place.strip().split(".")
        if not separator or not all(names):
            raise UserError(f"{option}: expected the form section.key=value")
        if len(names) > MAX_DEPTH:
            raise UserError(f"{option}: names a section deeper than {MAX_DEPTH}")
        try:
            value = load_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"{option}: the value {short_repr(text)} is not valid YAML: {yaml_reason(error)}") from None
        node, section = result, cls
        for name in names[:-1]:
            name = _current_name(node, section, name)
            child = node.setdefault(name, {})
            if isinstance(child, str):
                child = node[name] = {"kind": child}
            if not isinstance(child, dict):
                raise UserError(f"{option}: {shorten(name, 80)!r} holds {short_repr(child)}, expected a section")
            node, section = child, _settings_class(_annotation(section, name), child)
        node[_current_name(node, section, names[-1])] = _copy(value)
    return result


def _current_name(node: dict[str, Any], section: Any, name: str) -> str:
    """Returns the present name of the setting `name` and moves a value in `node` from the old name to it."""
    for new, field in getattr(section, "model_fields", {}).items():
        old = _marks(field).get("old_name")
        if old is not None and name in (old, new):
            if old in (name, *node):
                _warn_of_old_name(old, new)
            if old in node and new not in node:
                node[new] = node.pop(old)
            return str(new)
    return name


def _copy(value: Any) -> Any:
    """Returns a deep copy in which no container occurs twice, unlike what YAML aliases give."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def sort_overrides(overrides: Sequence[str]) -> list[str]:
    """Sorts by depth and keeps the order otherwise: `a={...}` comes before `a.b=...` and so does not undo it."""
    return sorted(overrides, key=lambda override: override.partition("=")[0].count("."))


def expand_variables(text: str) -> str:
    """Replaces every `${NAME}` by that environment variable. Raises `ValueError` if one is not set."""
    try:
        return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda match: os.environ[match[1]], text)
    except KeyError as error:
        raise ValueError(f"the environment variable {error.args[0]} is not set; expected a path in it") from None
