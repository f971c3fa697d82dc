"""Strategies for hostile and mistyped values, text and bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: Scalars that are known to break readers of settings.
ODD_SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    10**6,
    2**31,
    2**63,
    -(2**64),
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    ".",
    "..",
    "/",
    "~",
    "~nobody-of-that-name/x",
    "*",
    "**",
    "***",
    "**x",
    "[",
    "[]",
    "[!",
    "a/**/b",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "a" * 300,
    "a" * 5000,
    "ä" * 200,
    "a\0b",
    "\ud800",
    "${HOME}",
    "${NOT_SET_ANYWHERE}",
    "${",
    "http://localhost:1/x.pth",
    "s3://bucket/x",
    "torchvision://resnet50",
    "os:system",
    "no_such_module:X",
    ":",
    "a:",
    ":a",
    ".a:b",
    "base",
    "__init__",
    "felzenszwalb",
    "best",
    "none",
    "cpu",
    "cuda:99",
    "2024-01-01",
    "1e5",
    "0x10",
    "12:30:45",
    "yes",
    "=",
    "<<",
    "!x",
    "&a",
    "*a",
    "%",
    "@",
    "`",
    "x.yaml",
    "x.py",
    "x.pkl",
]

#: Pieces of text with a meaning in YAML.
ODD_TEXT = [
    "&a ",
    "*a",
    "&b [*b]",
    "<<: *a",
    "[" * 60,
    "{a: " * 60,
    "- " * 60,
    "!!python/object/apply:os.system [id]",
    "!!set {a, b}",
    "!!binary aGk=",
    "!!omap [a: 1]",
    "!!timestamp x",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!null x",
    "!!str",
    ".inf",
    "-.inf",
    ".nan",
    "9" * 6000,
    "0x" + "f" * 500,
    "0b_",
    "1:" * 200 + "1",
    "\0",
    "\x85",
    "\ufeff",
    '"\\ud800"',
    '"\\UFFFFFFFF"',
    '"\\x00"',
    "? ",
    ": ",
    "- ",
    "|",
    ">",
    "|9\n",
    "%YAML 9.9\n",
    "%TAG ! x\n",
    "---\n",
    "...\n",
    "\t",
    "'",
    '"',
    "#",
    ",",
    "}",
    "]",
    "\n",
    "\r",
    "  ",
    "2001-99-99",
    "name: x\n",
    "splits: {}\n",
    "x: &x {a: 1}\ny: {<<: [*x, *x]}\n",
]

scalars = st.one_of(st.sampled_from(ODD_SCALARS), st.integers(), st.floats(), st.text(max_size=20), st.booleans())

values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """Draws a deep copy of `value` in which up to `most` places are changed, removed or new."""
    for _ in range(draw(st.sampled_from([1, 1, most]))):
        value = draw(_changed_once(value))
    return value


@st.composite
def _changed_once(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        copy = dict(value)
        action = draw(st.integers(0, 9))
        if action == 0:
            del copy[key]
        elif action == 1:
            copy[draw(st.text(max_size=12))] = draw(values)
        else:
            copy[key] = draw(_changed_once(value[key]))
        return copy
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(_changed_once(value[place])), *value[place + 1 :]]
    return draw(values)


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """Draws `text` with pieces inserted, removed or doubled."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(st.sampled_from(ODD_TEXT), st.text(max_size=5), st.just(text[start:end] * 2), st.just(""))
        )
        text = text[:start] + piece + text[end:]
    return text


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Draws `data` with some bytes changed, most of them near the beginning, and perhaps truncated."""
    result = bytearray(data)
    for _ in range(draw(st.integers(0, 8))):
        most = draw(st.sampled_from([min(len(result), 400), len(result)]))
        result[draw(st.integers(0, most - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 3)) == 0:
        return bytes(result[: draw(st.integers(0, len(result)))])
    return bytes(result)
