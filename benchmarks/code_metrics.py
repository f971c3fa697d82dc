"""Measures the code of checkouts: `python -m benchmarks.code_metrics [ROOT ...] [--imports]`, a column per checkout.

Sizes, arguments, annotations, docstrings and import cycles are computed from the source without executing it.
`--imports` also imports every module alone in a fresh interpreter.
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
IMPORTED = ("goodsam", "pipeline", "stages", "demo", "benchmarks")


@dataclass(frozen=True)
class Module:
    """A module with its dotted name and its source; an `__init__` has the name of its package."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


@dataclass(frozen=True)
class Function:
    """A function; `public` if its name and the names of all enclosing classes are, and it is in no function."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool

    @property
    def lines(self) -> int:
        """Number of lines from `def` to the last one."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def arguments(self) -> list[ast.arg]:
        """Positional and keyword-only arguments without `self` and `cls`."""
        positional = self.node.args.posonlyargs + self.node.args.args
        return positional[bool(positional) and positional[0].arg in ("self", "cls") :] + self.node.args.kwonlyargs

    @property
    def typed(self) -> bool:
        """Whether every argument, `*args` and `**kwargs` included, and the return are annotated."""
        arguments = (*self.arguments, self.node.args.vararg, self.node.args.kwarg)
        return self.node.returns is not None and all(argument.annotation for argument in arguments if argument)


@dataclass(frozen=True)
class Spread:
    """Median, 90th percentile and maximum."""

    median: float
    p90: float
    max: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread:
        """Returns the spread of values; zeros if there are none."""
        counts = list(values) or [0]
        return cls(float(np.median(counts)), float(np.percentile(counts, 90)), max(counts))


@dataclass(frozen=True)
class Figures:
    """Figures of one checkout: shares as fractions, cycles as lists of modules, failing imports with their errors."""

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
    """Returns the modules of packages below a root, ordered by path; a missing package has none."""
    modules = []
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(name, path, len(text.splitlines()), ast.parse(text, str(path))))
    return modules


def functions_below(node: ast.AST, public: bool = True) -> Iterator[Function]:
    """Yields all functions below a node, including methods and inner functions; `public` is that of the node."""
    for child in ast.iter_child_nodes(node):
        name = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        visible = public and not name.startswith("_")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(child, visible)
        yield from functions_below(child, visible and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def imports_below(node: ast.AST, in_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yields import statements below a node, optionally those in functions, but none under `if TYPE_CHECKING`."""
    checking = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if isinstance(node, ast.If) and checking else ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_below(child, in_functions)


def imported_names(statement: ast.Import | ast.ImportFrom, module: Module, known: Collection[str]) -> set[str]:
    """Returns the known modules that a statement imports, including their parent packages."""
    if isinstance(statement, ast.Import):
        named = {alias.name for alias in statement.names}
    else:
        package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
        base = resolve_name("." * statement.level + (statement.module or ""), package)
        members = {f"{base}.{alias.name}" for alias in statement.names}
        named = {member if member in known else base for member in members}
    # parents of the module itself count only if named: they are imported before the module anyway
    parents = {name for name in known if module.name.startswith(f"{name}.")}
    implied = {name for name in known if any(member.startswith(f"{name}.") for member in named)} - parents
    return ((named | implied) & set(known)) - {module.name}


def import_graph(modules: Sequence[Module], in_functions: bool) -> dict[str, set[str]]:
    """Returns the imports between the modules, optionally including those in functions."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for module in modules:
        for statement in imports_below(module.tree, in_functions):
            graph[module.name] |= imported_names(statement, module, graph)
    return graph


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components of more than one node, each sorted."""
    reach = {node: set(following) for node, following in graph.items()}
    for middle in graph:  # Warshall's transitive closure
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    components = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(component) for component in sorted(components) if len(component) > 1]


def import_error(root: Path, name: str) -> str:
    """Imports a module in a fresh interpreter; returns the last line of the error, empty on success."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=root, env=environment, capture_output=True)
    error = done.stderr.decode().strip() or f"exit status {done.returncode}"
    return error.splitlines()[-1] if done.returncode else ""


def import_failures(root: Path) -> dict[str, str]:
    """Returns the error of each module that cannot be imported alone; skips a `__main__` without a guard."""
    modules = read_modules(root, IMPORTED)
    names = [m.name for m in modules if m.path.name != "__main__.py" or "if __name__ ==" in ast.unparse(m.tree)]
    with ThreadPoolExecutor(2) as pool:
        errors = pool.map(lambda name: (name, import_error(root, name)), names)
        return {name: error for name, error in errors if error}


def share(values: Iterable[object]) -> float:
    """Returns the share of values that are true and not empty; one without values."""
    return float(np.mean([bool(value) for value in values] or [True]))


def measure(root: Path, packages: Iterable[str] = PACKAGES, imports: bool = False) -> Figures:
    """Measures a checkout; `imports` also imports every module of the packages `IMPORTED`, which is slow."""
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
    """Formats a figure."""
    if isinstance(value, Spread):
        return f"{value.median:.1f} / {value.p90:.1f} / {value.max}"
    if isinstance(value, list):
        return f"{len(value)} ({sum(map(len, value))} modules)"
    return f"{value:.1%}" if isinstance(value, float) else str(len(value) if isinstance(value, dict) else value)


def table(figures: dict[str, Figures]) -> str:
    """Formats figures as a table with a column per checkout, followed by the modules that cannot be imported."""
    rows = [["", *figures]]
    for name in (field.name for field in fields(Figures)):
        values = [getattr(checkout, name) for checkout in figures.values()]
        spread = " median / p90 / max" if isinstance(values[0], Spread) else ""
        rows += [[name.replace("_", " ") + spread, *map(cell, values)]] * (None not in values)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for root, checkout in figures.items():
        lines += [f"{root}: import {name}: {error}" for name, error in (checkout.import_failures or {}).items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code_metrics", description="Measures checkouts.")
    parser.add_argument("roots", metavar="ROOT", nargs="*", type=Path, default=[ROOT], help="Default: this project.")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, help=f"Default: {' '.join(PACKAGES)}.")
    parser.add_argument("--imports", action="store_true", help="Import every module alone: minutes.")
    parser.add_argument(
        "--json", action="store_true", help="Print one JSON object, keyed by ROOT, in place of the table."
    )
    options = parser.parse_args(arguments)
    figures = {str(root): measure(root.resolve(), options.packages, options.imports) for root in options.roots}
    print(
        json.dumps({root: asdict(checkout) for root, checkout in figures.items()}) if options.json else table(figures)
    )


if __name__ == "__main__":
    main()
