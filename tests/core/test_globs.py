"""Globs match the same files as those of pathlib."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.globs import check_glob, find_below

NAMES = ["a", "b", "ab", ".h", "x.png", "a.png", "b.PNG", "[a]", "ä b"]


def make_tree(root: Path) -> None:
    """Folders three deep with every name as a file or a folder, links to both, and to nothing."""
    for i, first in enumerate(NAMES):
        if first.endswith("g"):
            root.joinpath(first).write_text("")
            continue
        for j, second in enumerate(NAMES):
            folder = root / first
            folder.mkdir(exist_ok=True)
            if (i + j) % 2 or second.endswith("g"):
                (folder / second).write_text("")
            else:
                (folder / second / "deep").mkdir(parents=True)
                (folder / second / "deep" / "x.png").write_text("")
                (folder / second / "a.png").write_text("")
    (root / "link.png").symlink_to("x.png")
    (root / "linked").symlink_to("a")
    (root / "b" / "up").symlink_to("..")
    (root / "lost.png").symlink_to("nowhere")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "fifo.png")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    make_tree(root)
    return root


parts = st.one_of(
    st.sampled_from(["*", "**", "?", "*.png", "*.[pP]*", "[ab]", "[!a]*", "a*", "*b", "[[]a]", "deep", "up", "linked"]),
    st.sampled_from([*NAMES, "link.png", "lost.png", "loop.png", "fifo.png", "."]),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(["**", "**", "*"])
@example(["**", "deep", "**", "*.png"])
@example(["b", "up", "**", "*.png"])
@example(["*", "*", "*", "*"])
@given(st.lists(parts, min_size=1, max_size=4))
def test_globs_match_what_pathlib_matches(tree: Path, pattern: list[str]) -> None:
    text = "/".join(pattern)
    if set(pattern) == {"."}:
        return
    expected = {p.relative_to(tree).as_posix() for p in tree.glob(text) if not os.path.isdir(p)}
    found = [name for name, _ in find_below(str(tree), text) if not os.path.isdir(tree / name)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_what_is_plain_is_an_ordinary_file_of_the_tree(tree: Path) -> None:
    for pattern in ("**/*", "*/*/*", "*", "linked/*", "b/up/*.png", "x.png", "link.png"):
        for name, plain in find_below(str(tree), pattern):
            path = tree / name
            whole = path.is_file() and os.path.realpath(path) == str(tree.resolve() / name)
            assert plain == (whole and not path.is_symlink()), name


@pytest.mark.parametrize("pattern", ["", ".", "/a", "../a", "a/../b", "**x/*", "***/*", "a**"])
def test_patterns_that_are_no_globs_below_a_folder(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_glob(pattern)


def test_a_folder_without_permission_is_passed_over(tmp_path: Path) -> None:
    assert list(find_below(str(tmp_path / "absent"), "**/*")) == []
    assert list(find_below(str(tmp_path), "x" * 300)) == []
