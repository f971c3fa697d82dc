"""Reading: text is bounded before it is expanded or printed, and only ordinary files are opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.core.reading import error_text, load_json, load_yaml, open_file, read_yaml, short_repr
from pipeline.core.settings import apply_overrides
from stages.config import load_config

ROOT = Path(__file__).resolve().parents[2]


def nested_aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested_aliases(9), "line 6, column .*holds more than 200,000 values, aliases expanded"),
        ("a: &a {b: 1, c: 2, d: 3}\nc: &c {<<: [" + "*a, " * 30_000 + "]}", "holds more than 200,000 values"),
        ("[" * 500 + "]" * 500, "line 1, column 51: is nested deeper than 50"),
        ("\n".join(" " * k + f"k{k}:" for k in range(500)), "is nested deeper than 50"),
        ("a: &a [*a]", "line 1, column 4: an alias occurs inside the value"),
        ("a: " + "9" * 6000, "a number of 6,000 characters"),
        ("a: 0x" + "f" * 90, "an integer of more than 64 bits"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11: duplicate key 'c'"),
        ("a: 1\n'a': 2", "line 2, column 1: duplicate key 'a'"),
        ("a: !!set {b, c}", "could not determine a constructor"),
        ("a: !!int ''", "is not of its type"),
        ("a: 0b_", "is not of its type"),
        ('a: "\\UFFFFFFFF"', ""),
        ('a: "\\ud800"', "a lone surrogate"),
        ('a: "\\0"', "a NUL"),
        ("a: !!python/name:os.system ''", "could not determine a constructor"),
        ("a: [", "expected the node content"),
    ],
    ids=range(17),
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"(?s)config.yaml: is not valid YAML: .*{message}") as error:
        read_yaml(path)
    assert len(str(error.value)) < 600
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
    with pytest.raises(UserError, match="is not valid YAML") as error:
        apply_overrides({}, [f"x={text}"])
    assert len(str(error.value)) < 900


def test_yaml_that_is_read() -> None:
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nday: 2024-01-01\nsign: =\nsmall: 1e-3\nagain: *b"
    assert load_yaml(text) == {
        "base": {"x": 1, "y": 2},
        "other": {"x": 1, "y": 3},
        "day": "2024-01-01",
        "sign": "=",
        "small": 0.001,
        "again": {"x": 1, "y": 2},
    }


def test_an_override_changes_one_use_of_an_alias() -> None:
    data = load_yaml("sam: &s {width: 1}\nteacher: *s")
    assert apply_overrides(data, ["sam.width=2"]) == {"sam": {"width": 2}, "teacher": {"width": 1}}


def test_exponential_aliases_cost_no_memory(tmp_path: Path) -> None:
    """The process may take one GiB of address space more than it has at first."""
    for name, text in (("aliases", nested_aliases(9)), ("deep", "[" * 100_000), ("large", "a: b\n" * 4_000_000)):
        (tmp_path / f"{name}.yaml").write_text(text)
    code = (
        "import resource, sys\n"
        "from stages.config import load_config\nfrom pipeline.core.errors import UserError\nfrom pathlib import Path\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        load_config(Path(path))\n"
        "    except UserError as error:\n        print(str(error)[:200])\n"
    )
    files = sorted(map(str, tmp_path.glob("*.yaml")))
    run = [sys.executable, "-c", code, *files]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert [line.partition(": ")[2].partition(":")[0] for line in done.stdout.splitlines()] == [
        "is not valid YAML",
        "is not valid YAML",
        "is larger than 16 MiB; expected a YAML file",
    ]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 60 + "1" + "}" * 60, "9" * 5000, "[NaN]", "[1, Infinity]"], ids=range(5)
)
def test_json_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)
    assert load_json('{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device"])
def test_only_ordinary_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "x.yaml"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        socket.socket(socket.AF_UNIX).bind("x.yaml")
    with pytest.raises(OSError, match=r"."):
        open_file(path)
    with pytest.raises(UserError, match=r"x\.yaml: cannot be read \(.*\); expected a YAML file"):
        read_yaml(path)
    for wrong in ("a\0b", "a" * 5000):
        with pytest.raises(UserError, match=r"cannot be read|no such file"):
            load_config(Path(wrong))


def test_values_are_shortened_before_they_are_printed() -> None:
    large: list[Any] = [10**6000, "x" * 10**6, [[[[[[1]]]]]] * 1000, {k: k for k in range(1000)}, b"\0" * 999]
    assert all(len(short_repr(value)) <= 80 for value in large)


def test_the_text_of_an_error_is_one_short_line() -> None:
    assert error_text(ValueError("two\n  lines")) == "two lines"
    assert error_text(MemoryError()) == "MemoryError"
    assert len(error_text(ValueError("x" * 1000), 100)) == 100
