"""Files and text that a user hands over: only ordinary files are opened, all of it is bounded, YAML and JSON are data.

This module knows no particular file. What it refuses, it refuses before the content is expanded or printed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import reprlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from pipeline.core.errors import UserError

#: The longest text file (settings, a manifest, a label space, a description), in bytes.
MAX_TEXT = 16 * 2**20

#: The most values and keys in one YAML or JSON text, counted after its aliases are expanded.
MAX_NODES = 200_000

#: The deepest nesting of YAML and JSON, after aliases are expanded.
MAX_DEPTH = 50

#: The longest number in YAML and JSON, in characters. Integers are of 64 bits besides.
MAX_DIGITS = 100

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# --------------------------------------------------------------------------------------------------------------
# Files


def is_file(path: str | Path) -> bool:
    """Is there an ordinary file (or a link to one)? False, too, for names that no file system takes."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Is there a folder (or a link to one)? False, too, for names that no file system takes."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def kind_of_file(mode: int) -> str:
    """What `st_mode` says that a file is, in words."""
    return next((name for test, name in _KINDS if test(mode)), "an ordinary file")


def open_file(path: str | Path) -> BinaryIO:
    """An ordinary file for reading. Raises `OSError` for every other kind, at once: a FIFO is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "is a name that no file can have", str(path)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"is {kind_of_file(mode)}, expected an ordinary file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path, expected: str) -> str:
    """A text file in UTF-8. Raises `UserError`; `expected` says what the file should have been."""
    try:
        with open_file(path) as stream:
            data = b""
            while len(data) <= MAX_TEXT and (block := stream.read(1 << 20)):
                data += block
        if len(data) > MAX_TEXT:
            raise UserError(f"{path}: is larger than {MAX_TEXT >> 20} MiB; expected {expected}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{shortened(path)}: no such file; expected {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shortened(path)}: cannot be read ({reason}); expected {expected}") from None


def user_path(text: str | Path) -> Path:
    """`text` as a path, with `~` expanded. Raises `ValueError` where that names nobody's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder in {shown(str(text))} is not known") from None


# --------------------------------------------------------------------------------------------------------------
# Values in messages


def shown(value: object, most: int = 80) -> str:
    """`repr(value)` in at most `most` characters; large values are cut before they are printed."""
    printer = reprlib.Repr()
    printer.maxstring = printer.maxother = printer.maxlong = most
    printer.maxdict = printer.maxlist = printer.maxtuple = printer.maxset = 8
    printer.maxlevel = 4
    try:
        return shortened(printer.repr(value), most)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def shortened(text: object, most: int = 300) -> str:
    """`str(text)` in at most `most` characters: its beginning and its end."""
    whole = str(text)
    tail = most // 3
    return whole if len(whole) <= most else f"{whole[: most - tail - 3]}...{whole[len(whole) - tail :]}"


# --------------------------------------------------------------------------------------------------------------
# YAML


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, with these differences.

    Numbers such as `1e-3` are numbers, as in YAML 1.2, and dates are text. A key may stand in a mapping once. Aliases
    are counted as what they stand for, and may not stand inside of it. Text without NUL and without half surrogate
    pairs, integers of 64 bits, mappings and sequences are all there is.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = self._depth = self._deepest = 0
        self._open: set[str] = set()
        self._extents: dict[str, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        anchor, mark = event.anchor, event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise _refusal(f"the alias {shown(anchor)} stands inside of what it names", mark)
            count, height = self._extents.get(anchor, (1, 1))
            self._add(count, self._depth + height, mark)
            return super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._add(1, self._depth + 1, mark)
        before, outer = self._count, self._deepest
        self._depth += 1
        self._deepest = self._depth
        if anchor:
            self._open.add(anchor)
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if anchor:
            self._open.discard(anchor)
            self._extents[anchor] = self._count - before + 1, self._deepest - self._depth
        self._deepest = max(outer, self._deepest)
        return node

    def _add(self, count: int, depth: int, mark: Any) -> None:
        self._count += count
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            raise _refusal(f"is nested deeper than {MAX_DEPTH}", mark)
        if self._count > MAX_NODES:
            raise _refusal(f"holds more than {MAX_NODES:,} values, aliases expanded", mark)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        known: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in known:
                raise _refusal(f"the key {shown(name)} stands here for the second time", key.start_mark)
            known.add(name)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        scalar = isinstance(node, yaml.ScalarNode)
        if scalar and len(node.value) > MAX_DIGITS and node.tag in _NUMBERS:
            raise _refusal(f"a number of {len(node.value):,} characters", node.start_mark)
        try:
            value = super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise _refusal(f"{shown(node.value)} is not of its type {shown(node.tag)}", node.start_mark) from None
        if scalar and isinstance(value, int) and abs(value) >= 2**63:
            raise _refusal("an integer of more than 64 bits", node.start_mark)
        if scalar and isinstance(value, str) and not _is_text(value):
            raise _refusal("text with a NUL or half a surrogate pair", node.start_mark)
        return value


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NOT_PLAIN = [f"tag:yaml.org,2002:{name}" for name in ("timestamp", "binary", "omap", "pairs", "set", "value")]
_Loader.yaml_constructors = {
    tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _is_text(value: str) -> bool:
    if value.isascii():
        return "\0" not in value
    return "\0" not in value and re.search("[\ud800-\udfff]", value) is None


def _refusal(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def load_yaml(text: str) -> Any:
    """What `text` says in YAML, as dicts, lists, text, numbers, booleans and None; nothing is executed.

    Raises `yaml.YAMLError` for what is no YAML, or beyond the bounds of this module.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError, RecursionError) as error:  # an escape beyond Unicode
        raise yaml.YAMLError(str(error)) from None


def yaml_reason(error: yaml.YAMLError) -> str:
    """What is wrong and where, in less than 300 characters."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return shortened(" ".join(str(error).split()))
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return place + shortened(" ".join(error.problem.split()), 250)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, see `load_yaml`. An empty file is an empty mapping. Raises `UserError`."""
    text = read_text(path, "a YAML file")
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {yaml_reason(error)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: found a {type(data).__name__} at the top, expected a mapping of keys")
    return data


# --------------------------------------------------------------------------------------------------------------
# JSON


def load_json(text: str) -> Any:
    """What `text` says in JSON. Raises `ValueError` for what is none, or beyond the bounds of this module."""
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}") from None
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH}")
        if count > MAX_NODES:
            raise ValueError(f"holds more than {MAX_NODES:,} values")
        level = [
            child
            for item in level
            if isinstance(item, Mapping | list)
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS or abs(int(text)) >= 2**63:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def _no_constant(text: str) -> Any:
    raise ValueError(f"found {text}, expected a finite number")


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """A JSON object, see `load_json`. Raises `UserError`; `expected` as for `read_text`."""
    text = read_text(path, expected)
    try:
        data = load_json(text)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({shortened(error)})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: found a {type(data).__name__} at the top, expected a mapping of keys")
    return data
