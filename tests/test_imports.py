"""The module graph: no cycles, layers and stages apart, and every module imports alone in a fresh interpreter."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.code_metrics import find_cycles, import_failures, import_graph, read_modules

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("goodsam", "pipeline", "stages", "demo", "benchmarks")
MODULES = read_modules(ROOT, PACKAGES)

#: The packages of `pipeline` from low to high, with the lower ones that each may not import.
LAYERS: dict[str, set[str]] = {
    "core": set(),
    "geometry": set(),
    "data": set(),
    "execution": set(),
    "cache": set(),
    "models": {"cache"},
}

#: Modules of `stages` that every stage may import.
SHARED = {"config", "options", "commands"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The imports of each module, those in functions too."""
    return import_graph(MODULES, in_functions=True)


def forbidden(graph: dict[str, set[str]], prefix: str, allowed: set[str]) -> list[str]:
    """Returns the imports below the packages of `allowed` that modules in `prefix` make beyond those packages."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        if f"{module}.".startswith(f"{prefix}.")
        for other in sorted(others)
        if not any(f"{other}.".startswith(f"{name}.") for name in {prefix, *allowed})
    ]


@pytest.mark.parametrize("in_functions", [False, True])
def test_there_are_no_import_cycles(in_functions: bool) -> None:
    assert find_cycles(import_graph(MODULES, in_functions)) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_lower_layers_only(graph: dict[str, set[str]], layer: str) -> None:
    below = list(LAYERS)[: list(LAYERS).index(layer)]
    allowed = {f"pipeline.{name}" for name in set(below) - LAYERS[layer]}
    found = forbidden(graph, f"pipeline.{layer}", allowed)
    assert [text for text in found if not text.endswith(" imports pipeline")] == []


def test_every_package_of_the_pipeline_is_a_layer() -> None:
    assert {path.parent.name for path in ROOT.glob("pipeline/*/__init__.py")} == set(LAYERS)


def test_the_pipeline_imports_no_other_package(graph: dict[str, set[str]]) -> None:
    assert forbidden(graph, "pipeline", set()) == []


def test_no_stage_imports_another(graph: dict[str, set[str]]) -> None:
    for stage in sorted(path.parent.name for path in ROOT.glob("stages/*/__init__.py")):
        shared = {f"stages.{name}" for name in SHARED}
        found = forbidden(graph, f"stages.{stage}", {"pipeline", *shared})
        assert [text for text in found if not text.endswith(" imports stages")] == []


def test_the_pipeline_names_no_other_package() -> None:
    """Nor in strings: messages, docstrings and names that are imported later."""
    module_path = re.compile(r"\b(stages|demo|benchmarks)[./]\w|\bpython -m (stages|demo|benchmarks)\b")
    named = [
        f"{module.name}: {node.value[:80]!r}"
        for module in MODULES
        if module.name.startswith("pipeline")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and module_path.search(node.value)
    ]
    assert named == []


@pytest.mark.slow
def test_every_module_imports_alone() -> None:
    assert import_failures(ROOT) == {}
