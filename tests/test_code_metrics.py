"""The figures of a small checkout, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.code_metrics import Figures, Spread, main, measure

FILES = {
    "pipeline/__init__.py": '"""A facade."""\n\nfrom pipeline.low import one\n',
    "pipeline/low.py": '''"""Typed and untyped functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.cli import Other  # a type checker's import makes no cycle


class Thing:
    """A thing."""

    def method(self, a: int, /, b: int, *rest: int, c: int = 0, **more: int) -> int:
        """Counts."""
        return a

    @classmethod
    def make(cls, a) -> Thing:
        return cls()


class _Hidden:
    def method(self, *rest) -> None:
        def inner() -> None:
            """An inner function is not public."""


def one() -> int:
    """One."""
    from pipeline import high

    return high.two()
''',
    "pipeline/high.py": "import pipeline.low\n\n\ndef two():\n    return 2\n",
    "pipeline/__main__.py": 'raise SystemExit("this does work")\n',
    "stages/__init__.py": "",
    "stages/cli.py": '''"""A command."""

from pipeline.low import one
from stages.left import Left


class Other:
    def command(self, a: int) -> None:
        """A method is no command."""


def command(a: int, b: int, c: int, d: int, e: int) -> None:
    """Five options."""
''',
    "stages/left.py": "from . import right\n\n\nclass Left:\n    pass\n",
    "stages/right.py": "try:\n    import stages.middle\nexcept ImportError:\n    raise\n",
    "stages/middle.py": "from stages.left import Left\n",
    "demo/sheet.py": "from demo.nothing import Nothing\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_figures_equal_those_counted_by_hand(root: Path) -> None:
    assert measure(root) == Figures(
        modules=9,
        lines=3 + 33 + 5 + 1 + 0 + 13 + 5 + 4 + 1,
        lines_per_module=Spread(4, pytest.approx(17), 33),
        functions=8,
        lines_per_function=Spread(2, pytest.approx(3.6), 5),
        arguments=Spread(0.5, pytest.approx(3.6), 5),
        commands=1,
        arguments_of_commands_max=5,
        typed_functions=5 / 8,
        modules_with_docstrings=3 / 9,
        classes_with_docstrings=1 / 4,
        functions_with_docstrings=5 / 8,
        public_functions_with_docstrings=4 / 6,
        import_cycles_static=[["stages.left", "stages.middle", "stages.right"]],
        import_cycles_with_functions=[
            ["pipeline.high", "pipeline.low"],
            ["stages.left", "stages.middle", "stages.right"],
        ],
        import_failures=None,
    )


@pytest.mark.parametrize(
    ("facade", "inner", "thing", "cycles"),
    [
        ("import b.thing", "", "import a.inner", [["a", "b.thing"]]),  # a.inner imports a
        ("from a.inner import x", "import a.other", "", []),  # a is imported before a.inner
        ("from a.inner import x", "from a import other", "", []),
        ("from a.inner import x", "from a import y", "", [["a", "a.inner"]]),
        ("from .inner import x", "from . import y", "", [["a", "a.inner"]]),
        ("from .inner import x", "from .other import y", "", []),
    ],
)
def test_an_import_includes_the_parent_packages(
    tmp_path: Path, facade: str, inner: str, thing: str, cycles: list[list[str]]
) -> None:
    files = {"a/__init__.py": facade, "a/inner.py": inner, "a/other.py": "", "b/__init__.py": "", "b/thing.py": thing}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert measure(tmp_path, ["a", "b"]).import_cycles_static == cycles


def test_every_module_is_imported_alone(root: Path) -> None:
    failures = measure(root, imports=True).import_failures
    assert failures is not None
    assert set(failures) == {"stages.cli", "stages.left", "demo.sheet"}, (
        "some modules of a cycle cannot be imported alone"
    )
    assert failures["demo.sheet"] == "ModuleNotFoundError: No module named 'demo.nothing'"


def test_the_table_has_a_column_per_checkout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = root / "empty"
    main([str(root), str(empty)])
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: [text.strip() for text in row[1:] if text] for row in rows}
    assert table[""] == [str(root), str(empty)]
    assert table["arguments median / p90 / max"] == ["0.5 / 3.6 / 5", "0.0 / 0.0 / 0"]
    assert table["typed functions"] == ["62.5%", "100.0%"]
    assert table["import cycles static"] == ["1 (3 modules)", "0 (0 modules)"]
    assert "import failures" not in table


def test_packages_can_be_chosen_and_figures_printed_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(root), "--packages", "pipeline", "--json"])
    figures = json.loads(capsys.readouterr().out)[str(root)]
    assert (figures["modules"], figures["lines_per_module"]["max"]) == (4, 33)
    assert figures["import_cycles_with_functions"] == [["pipeline.high", "pipeline.low"]]
