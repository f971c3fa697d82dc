"""Typed, frozen settings: read from YAML, overridden by ``a.b=c``, printed, and hashed into stable keys.

A setting's documentation stands once, beside the setting. This module knows no particular setting
(those are in :mod:`pipeline.config`) and computes nothing but hashes of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from pipeline.digests import content_digest
from pipeline.errors import UserError, all_problems

SettingsT = TypeVar("SettingsT", bound="Settings")

#: Mark a field with ``json_schema_extra=NOT_IN_KEY`` if it cannot change a result (batch size, device, ...).
NOT_IN_KEY: dict[str, Any] = {"in_key": False}


class Settings(BaseModel):
    """Base of every settings object: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def key_parts(self) -> dict[str, Any]:
        """What of this object determines a result, as plain JSON values.

        Fields at their default are left out, so that a new setting with its default keeps old keys. Changing
        a default therefore needs a higher algorithm version; a golden test holds all defaults in place.
        A file (``Path``) enters by the digest of its content.
        """
        parts: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("in_key") is False:
                continue
            value = getattr(self, name)
            changed_code = getattr(value, "algorithm", 1) != 1  # of a component: enters even where it is the default
            if not field.is_required() and value == field.get_default(call_default_factory=True) and not changed_code:
                continue
            parts[name] = _plain(value)
        return parts


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.key_parts()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"sha256": content_digest(value)}
    raise TypeError(f"{value!r} cannot be part of a key")


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no white space: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def _locate(value: Path, info: ValidationInfo) -> Path:
    for name in _VARIABLE.findall(str(value)):
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set; expected a path in it")
    path = Path(expand_variables(str(value), "a file")).expanduser()
    folders = (info.context or {}).get("folders", [Path()])
    for folder in folders:
        if (folder / path).exists():
            return (folder / path).absolute()
    return path


def _locate_named(value: str, info: ValidationInfo) -> str:
    return str(_locate(Path(value), info)) if Path(value).suffix in (".yaml", ".yml", ".py") else value


#: The name of something that comes with this project, or a file as :data:`SettingsFile` has it: ``.yaml``, ``.py``.
NameOrFile = Annotated[str, AfterValidator(_locate_named)]

#: A file that a setting names: ``${NAME}`` is expanded, a relative path is relative to the YAML file that names it or,
#: where that does not exist, to the working directory. That it exists is checked when it is needed.
SettingsFile = Annotated[Path, AfterValidator(_locate)]


# --------------------------------------------------------------------------------------------------------------
# Reading


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but for numbers such as `1e-3`, which are numbers, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(text: str) -> Any:
    """What ``text`` says in YAML, loaded safely (no tags that build objects). Raises ``yaml.YAMLError``."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, loaded safely (no tags that build objects). An empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: found a {type(data).__name__} at the top, expected a mapping of keys")
    return data


def parse_settings(
    cls: type[SettingsT], data: Mapping[str, Any], source: str, *, folders: Sequence[Path] = ()
) -> SettingsT:
    """``data`` as ``cls``; every problem at once, each with its place in ``source``.

    Relative files (fields of type :data:`SettingsFile`) are looked for in ``folders``, then in the working directory.
    """
    try:
        return cls.model_validate(dict(data), context={"folders": [*folders, Path()]})
    except ValidationError as error:
        all_problems(source, [_sentence(cls, problem) for problem in error.errors()])
        raise  # unreachable: a ValidationError has at least one problem


def _sentence(cls: type[Settings], problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    found = repr(problem["input"])
    found = found if len(found) <= 80 else found[:77] + "..."
    if problem["type"] == "extra_forbidden":
        known = _known_keys(cls, problem["loc"][:-1])
        expected = f"expected one of: {', '.join(known)}" if known else "expected no such key"
        return f"{place}: unknown key; {expected}"
    if problem["type"] == "missing":
        return f"{place}: is missing"
    message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
    return f"{place}: found {found}; {message[0].lower()}{message[1:]}"


def _known_keys(cls: type[Settings], loc: Sequence[Any]) -> list[str]:
    current: Any = cls
    for part in loc:
        field = getattr(current, "model_fields", {}).get(part)
        current = field.annotation if field is not None else None
    return sorted(getattr(current, "model_fields", {}))


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``data`` with each ``a.b=value`` (value in YAML) put in its place; ``data`` itself stays as it is.

    A component that is named by its kind alone becomes a section when one of its settings is changed.
    """
    result = json.loads(json.dumps(data))
    for override in overrides:
        place, separator, text = override.partition("=")
        if not separator or not place.strip():
            raise UserError(f"--set {override}: expected the form section.key=value")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value {text!r} is not valid YAML") from None
        *parents, last = place.strip().split(".")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if isinstance(child, str):
                child = node[parent] = {"kind": child}
            if not isinstance(child, dict):
                raise UserError(f"--set {override}: {parent!r} holds {child!r}, expected a section")
            node = child
        node[last] = value
    return result


def outer_first(overrides: Sequence[str]) -> list[str]:
    """``a=...`` before ``a.b=...``, else in the order given: replacing a section undoes no change inside it."""
    return sorted(overrides, key=lambda override: override.partition("=")[0].count("."))


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand_variables(text: str, source: str) -> str:
    """``text`` with every ``${NAME}`` replaced by that environment variable; an unset one is an error."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(f"{source}: found {text!r}, but the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(value, text)
