"""Config trees: nested mappings, lists and tuples, as in mmengine configs and in JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Keys of a model's config that name weights to load.
WEIGHT_KEYS = ("init_cfg", "pretrained", "pretrained_backbone", "load_from")

_TUPLE = "__tuple__"


def walk(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields the path (keys and indices) and the value of each node, parents before children.

    A node may be changed in place when it is yielded: the walk continues with its new children.
    """
    yield path, tree
    if isinstance(tree, Mapping):
        children = list(tree.items())
    else:
        children = list(enumerate(tree)) if isinstance(tree, list | tuple) else []
    for key, child in children:
        yield from walk(child, (*path, key))


def rebuild(tree: Any, replace: Callable[[Any], Any]) -> Any:
    """Returns a copy of a tree with `replace(node)` in place of each node, children before parents."""
    if isinstance(tree, Mapping):
        tree = {key: rebuild(child, replace) for key, child in tree.items()}
    elif isinstance(tree, list | tuple):
        tree = type(tree)(rebuild(child, replace) for child in tree)
    return replace(tree)


def without_keys(tree: Any, unwanted: Callable[[str, Any], bool]) -> Any:
    """Returns a copy of a tree without the entries of its mappings for which `unwanted(key, value)` holds."""
    return rebuild(
        tree, lambda node: {k: v for k, v in node.items() if not unwanted(k, v)} if isinstance(node, dict) else node
    )


def without_weights(model: Any) -> Any:
    """Returns a copy of a model's config without `WEIGHT_KEYS`."""
    return without_keys(model, lambda key, _: key in WEIGHT_KEYS)


def to_json(tree: Any) -> Any:
    """Returns a tree as JSON data. Tuples are marked, because some networks distinguish them from lists."""
    return rebuild(tree, lambda node: {_TUPLE: list(node)} if isinstance(node, tuple) else node)


def from_json(data: Any) -> Any:
    """Returns the tree that `to_json` was given."""

    def unmark(node: Any) -> Any:
        marked = isinstance(node, dict) and set(node) == {_TUPLE} and isinstance(node[_TUPLE], list)
        return tuple(node[_TUPLE]) if marked else node

    return rebuild(data, unmark)
