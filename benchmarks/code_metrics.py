"""Measures the code of checkouts, side by side: `python -m benchmarks.code_metrics [ROOT ...] [--imports]`.

Sizes, arguments, annotations, docstrings and import cycles are read from the source, and nothing measured is executed.
`--imports` also imports every module alone, each in a fresh interpreter.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import resolve_name
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages")
IMPORTED = ("pipeline", "stages", "demo", "benchmarks")


@dataclass(frozen=True)
class Module:
    """A module's dotted name and its source. The name of a package stands for its `__init__`."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


@dataclass(frozen=True)
class Function:
    """A function from its `def` to its last line. A public one has only public classes around it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def arguments(self) -> list[ast.arg]:
        """Positional and keyword-only arguments without `self` and `cls`."""
        positional = self.node.args.posonlyargs + self.node.args.args
        return positional[bool(positional) and positional[0].arg in ("self", "cls") :] + self.node.args.kwonlyargs

    @property
    def typed(self) -> bool:
        """Whether every argument, `*args` and `**kwargs` included, and the return are annotated."""
        every = (*self.arguments, self.node.args.vararg, self.node.args.kwarg)
        return self.node.returns is not None and all(argument.annotation for argument in every if argument)


@dataclass(frozen=True)
class Spread:
    """Median, 90th percentile and maximum."""

    median: float
    p90: float
    max: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread:
        """The spread of values; zeros if there are none."""
        counts = list(values) or [0]
        return cls(float(np.median(counts)), float(np.percentile(counts, 90)), max(counts))


@dataclass(frozen=True)
class Figures:
    """Figures of one checkout: fractions for shares, the modules of each cycle, the error of each failing import."""

    modules: int
    lines: int
    lines_per_module: Spread
    functions: int
    lines_per_function: Spread
    arguments: Spread
    commands: int
    arguments_of_commands_max: int
    typed_functions: float
    modules_with_docstrings: float
    classes_with_docstrings: float
    functions_with_docstrings: float
    public_functions_with_docstrings: float
    import_cycles_static: list[list[str]]
    import_cycles_with_functions: list[list[str]]
    import_failures: dict[str, str] | None


def read_modules(root: Path, packages: Iterable[str]) -> list[Module]:
    """The modules of packages below a root, by path; a package that is not there has none."""
    modules = []
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(name, path, len(text.splitlines()), ast.parse(text, str(path))))
    return modules


def functions_below(node: ast.AST, public: bool = True) -> Iterator[Function]:
    """Functions below a node, methods and inner ones too; `public` says whether the node is public."""
    for child in ast.iter_child_nodes(node):
        name = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        visible = public and not name.startswith("_")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(child, visible)
        yield from functions_below(child, visible and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def imports_below(node: ast.AST, in_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements below a node, those in functions only if wanted; none under `if TYPE_CHECKING`."""
    checking = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if isinstance(node, ast.If) and checking else ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_below(child, in_functions)


def imported_names(statement: ast.Import | ast.ImportFrom, module: Module, known: Collection[str]) -> set[str]:
    """The known modules that a statement imports, packages around them included."""
    if isinstance(statement, ast.Import):
        named = {alias.name for alias in statement.names}
    else:
        package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
        base = resolve_name("." * statement.level + (statement.module or ""), package)
        members = {f"{base}.{alias.name}" for alias in statement.names}
        named = {member if member in known else base for member in members}
    # what is around the module itself counts only if named: it is imported before the module anyway
    own = {name for name in known if module.name.startswith(f"{name}.")}
    implied = {name for name in known if any(each.startswith(f"{name}.") for each in named)} - own
    return ((named | implied) & set(known)) - {module.name}


def import_graph(modules: Sequence[Module], in_functions: bool) -> dict[str, set[str]]:
    """What each module imports of the others; imports in functions only if wanted."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for module in modules:
        for statement in imports_below(module.tree, in_functions):
            graph[module.name] |= imported_names(statement, module, graph)
    return graph


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, each sorted."""
    reach = {node: set(following) for node, following in graph.items()}
    for middle in graph:  # Warshall's transitive closure
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    components = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(component) for component in sorted(components) if len(component) > 1]


def import_error(root: Path, name: str) -> str:
    """The last line of the error of importing a module in a fresh interpreter; empty if there is none."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=root, env=environment, capture_output=True)
    error = done.stderr.decode().strip() or f"exit status {done.returncode}"
    return error.splitlines()[-1] if done.returncode else ""


def import_failures(root: Path) -> dict[str, str]:
    """The error of each module that fails alone. A `__main__` without a guard does work, and is left out."""
    modules = read_modules(root, IMPORTED)
    names = [m.name for m in modules if m.path.name != "__main__.py" or "if __name__ ==" in ast.unparse(m.tree)]
    with ThreadPoolExecutor(2) as pool:
        errors = pool.map(lambda name: (name, import_error(root, name)), names)
        return {name: error for name, error in errors if error}


def share(values: Iterable[object]) -> float:
    """The share of values that are neither false nor empty; one if there are no values."""
    return float(np.mean([bool(value) for value in values] or [True]))


def measure(root: Path, packages: Iterable[str] = PACKAGES, imports: bool = False) -> Figures:
    """The figures of a checkout. `imports` imports every module of `IMPORTED`, which is slow."""
    modules = read_modules(root, packages)
    functions = [function for module in modules for function in functions_below(module.tree)]
    classes = [node for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    inside_cli = [node for module in modules if module.path.name == "cli.py" for node in module.tree.body]
    commands = [len(f.arguments) for f in functions if f.node.name == "command" and f.node in inside_cli]
    return Figures(
        modules=len(modules),
        lines=sum(module.lines for module in modules),
        lines_per_module=Spread.of(module.lines for module in modules),
        functions=len(functions),
        lines_per_function=Spread.of(function.lines for function in functions),
        arguments=Spread.of(len(function.arguments) for function in functions),
        commands=len(commands),
        arguments_of_commands_max=max(commands, default=0),
        typed_functions=share(function.typed for function in functions),
        modules_with_docstrings=share(ast.get_docstring(module.tree) for module in modules),
        classes_with_docstrings=share(map(ast.get_docstring, classes)),
        functions_with_docstrings=share(ast.get_docstring(f.node) for f in functions),
        public_functions_with_docstrings=share(ast.get_docstring(f.node) for f in functions if f.public),
        import_cycles_static=find_cycles(import_graph(modules, in_functions=False)),
        import_cycles_with_functions=find_cycles(import_graph(modules, in_functions=True)),
        import_failures=import_failures(root) if imports else None,
    )


def cell(value: object) -> str:
    """A figure as text."""
    if isinstance(value, Spread):
        return f"{value.median:.1f} / {value.p90:.1f} / {value.max}"
    if isinstance(value, list):
        return f"{len(value)} ({sum(map(len, value))} modules)"
    return f"{value:.1%}" if isinstance(value, float) else str(len(value) if isinstance(value, dict) else value)


def table(figures: dict[str, Figures]) -> str:
    """A row a figure that was measured, a column a checkout; below, the modules that cannot be imported."""
    rows = [["", *figures]]
    for name in (field.name for field in fields(Figures)):
        values = [getattr(each, name) for each in figures.values()]
        spread = " median / p90 / max" if isinstance(values[0], Spread) else ""
        rows += [[name.replace("_", " ") + spread, *map(cell, values)]] * (None not in values)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for root, each in figures.items():
        lines += [f"{root}: import {name}: {error}" for name, error in (each.import_failures or {}).items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code_metrics", description="Measures checkouts.")
    parser.add_argument("roots", metavar="ROOT", nargs="*", type=Path, default=[ROOT], help="Default: this project.")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, help=f"Default: {' '.join(PACKAGES)}.")
    parser.add_argument("--imports", action="store_true", help="Import every module alone: minutes.")
    parser.add_argument("--json", action="store_true", help="One object by ROOT in place of the table.")
    given = parser.parse_args(arguments)
    figures = {str(root): measure(root.resolve(), given.packages, given.imports) for root in given.roots}
    print(json.dumps({root: asdict(each) for root, each in figures.items()}) if given.json else table(figures))


if __name__ == "__main__":
    main()
