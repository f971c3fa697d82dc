"""Bounded reading of what a user hands over: ordinary files, YAML and JSON as plain data, values in messages.

A file or text beyond the bounds is refused before its content is expanded or printed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import reprlib
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import UserError

MAX_TEXT = 16 * 2**20  # bytes of a text file (settings, a manifest, a label space, a description)
# In one YAML or JSON text:
MAX_NODES = 200_000  # values and keys, after aliases are expanded
MAX_DEPTH = 50  # levels of nesting, after aliases are expanded
MAX_DIGITS = 100  # characters of a number; integers must also fit into 64 bits

_FILE_TYPES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_FILE_TYPES |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")


def is_file(path: str | Path) -> bool:
    """Returns whether `path` is an ordinary file or a link to one; False for names that no file system accepts."""
    return os.path.isfile(path)


def file_type(mode: int) -> str:
    """Returns the type of a file with this `st_mode`, in words for messages."""
    return _FILE_TYPES.get(stat.S_IFMT(mode), "an ordinary file")


def open_file(path: str | Path) -> BufferedReader:
    """Opens an ordinary file for reading bytes; does not wait for the writer of a FIFO.

    Raises `OSError` if the file cannot be opened or is of another type.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL or a lone surrogate
        raise OSError(errno.EINVAL, "is a name that no file can have", str(path)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"is {file_type(mode)}, expected an ordinary file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path, expected: str) -> str:
    """Reads a text file in UTF-8; `expected` names the kind of file in messages, e.g. "a YAML file".

    Raises `UserError` if the file is missing, unreadable, larger than `MAX_TEXT` or not UTF-8.
    """
    try:
        with open_file(path) as stream:
            data = b""
            while len(data) <= MAX_TEXT and (block := stream.read(1 << 20)):
                data += block
        if len(data) > MAX_TEXT:
            raise UserError(f"{path}: is larger than {MAX_TEXT >> 20} MiB; expected {expected}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{shorten(path)}: no such file; expected {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shorten(path)}: cannot be read ({reason}); expected {expected}") from None


def user_path(text: str | Path) -> Path:
    """Returns `text` as a path with `~` expanded. Raises `ValueError` if that home folder is unknown."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder in {short_repr(str(text))} is not known") from None


def short_repr(value: object, max_length: int = 80) -> str:
    """Returns `repr(value)` in at most `max_length` characters; large values are cut before they are formatted."""
    printer = reprlib.Repr()
    printer.maxstring = printer.maxother = printer.maxlong = max_length
    printer.maxdict = printer.maxlist = printer.maxtuple = printer.maxset = 8
    printer.maxlevel = 4
    try:
        return shorten(printer.repr(value), max_length)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def shorten(text: object, max_length: int = 300) -> str:
    """Returns `str(text)` in at most `max_length` characters: its beginning and its end."""
    whole = str(text)
    tail = max_length // 3
    return whole if len(whole) <= max_length else f"{whole[: max_length - tail - 3]}...{whole[len(whole) - tail :]}"


def error_text(error: BaseException, max_length: int = 300) -> str:
    """Returns the message of `error` on one line, shortened; the name of its class if it has no message."""
    return shorten(" ".join(str(error).split()), max_length) or type(error).__name__


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, restricted to plain data within the bounds of this module.

    Differences: `1e-3` is a number, as in YAML 1.2. A date is text. A duplicate key is an error. Text without NUL and
    lone surrogates, integers of 64 bits, floats, booleans, null, mappings and sequences are the only values.
    """

    _count = _depth = 0

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._count += 1
        self._depth += 1
        _check_bounds(self._count, self._depth, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        names: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in names:
                raise _yaml_error(f"duplicate key {short_repr(name)}", key.start_mark)
            names.add(name)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        scalar = isinstance(node, yaml.ScalarNode)
        if scalar and len(node.value) > MAX_DIGITS and node.tag in _NUMBERS:
            raise _yaml_error(f"a number of {len(node.value):,} characters", node.start_mark)
        try:
            value = super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            problem = f"{short_repr(node.value)} is not of its type {short_repr(node.tag)}"
            raise _yaml_error(problem, node.start_mark) from None
        if scalar and isinstance(value, int) and abs(value) >= 2**63:
            raise _yaml_error("an integer of more than 64 bits", node.start_mark)
        if scalar and isinstance(value, str) and _NOT_TEXT.search(value):
            raise _yaml_error("text with a NUL or a lone surrogate", node.start_mark)
        return value


_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
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


def _measure(node: Any, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Returns the number of values in a node and its height, aliases expanded; `sizes` holds those of earlier nodes."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in sizes:
        sizes[id(node)] = 0, 0  # until its content is measured
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        parts = [_measure(child, sizes) for child in children]
        count, height = 1 + sum(size for size, _ in parts), 1 + max((height for _, height in parts), default=0)
        _check_bounds(count, height, node.start_mark)
        sizes[id(node)] = count, height
    elif sizes[id(node)] == (0, 0):
        raise _yaml_error("an alias occurs inside the value that it repeats", node.start_mark)
    return sizes[id(node)]


def _check_bounds(count: int, depth: int, mark: Any) -> None:
    if depth > MAX_DEPTH:
        raise _yaml_error(f"is nested deeper than {MAX_DEPTH}", mark)
    if count > MAX_NODES:
        raise _yaml_error(f"holds more than {MAX_NODES:,} values, aliases expanded", mark)


def _yaml_error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def load_yaml(text: str) -> Any:
    """Parses YAML into plain values; nothing is executed.

    Raises `yaml.YAMLError` if `text` is no YAML, or is beyond the bounds of this module.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError, RecursionError) as error:  # an escape beyond Unicode
        raise yaml.YAMLError(str(error)) from None


def yaml_reason(error: yaml.YAMLError) -> str:
    """Returns the problem and its line and column, in less than 300 characters."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return error_text(error)
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return place + shorten(" ".join(error.problem.split()), 250)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads one YAML mapping, see `load_yaml`; an empty file gives an empty mapping. Raises `UserError`."""
    text = read_text(path, "a YAML file")
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {yaml_reason(error)}") from None
    return {} if data is None else _mapping(data, path)


def _mapping(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{path}: found a {type(data).__name__} at the top, expected a mapping of keys")
    return data


def load_json(text: str, max_values: int = MAX_NODES) -> Any:
    """Parses JSON. Raises `ValueError` if `text` is no JSON, or is beyond the bounds of this module.

    `max_values` replaces the bound `MAX_NODES` for files that hold more by their nature.
    """
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=reject_constant)
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}") from None
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH}")
        if count > max_values:
            raise ValueError(f"holds more than {max_values:,} values")
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS or abs(int(text)) >= 2**63:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def reject_constant(text: str) -> Any:
    """Raises `ValueError`: the `parse_constant` of `json.loads` for NaN and infinities."""
    raise ValueError(f"found {text}, expected a finite number")


def read_json(path: Path, expected: str, max_values: int = MAX_NODES) -> dict[str, Any]:
    """Reads one JSON object, see `load_json`; `expected` as for `read_text`. Raises `UserError`."""
    text = read_text(path, expected)
    try:
        return _mapping(load_json(text, max_values), path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({shorten(error)})") from None
