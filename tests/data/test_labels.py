"""Label spaces and how predictions map between them (docs/method.md 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.data.labels import BUILTIN, load_label_space
from tests.conftest import write_yaml

CITYSCAPES = load_label_space("cityscapes19")


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILTIN.glob("*.yaml")))
def test_built_in_spaces_load_under_their_own_name(name: str) -> None:
    assert load_label_space(name).name == name


def test_densepass13_mapping_is_the_published_one() -> None:
    table = load_label_space("densepass13").mapping_from(CITYSCAPES)
    assert table.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 12, 12, 255, 12, 12]


def test_wildpass_maps_by_meaning_and_misses_two_classes() -> None:
    space = load_label_space("wildpass8")
    for index, target in enumerate(space.mapping_from(CITYSCAPES)):
        if target != 255:
            assert CITYSCAPES.classes[index].replace("rider", "person") == space.classes[target]
    missing = [c for c, there in zip(space.classes, space.reachable_from(CITYSCAPES), strict=True) if not there]
    assert missing == ["curb", "crosswalk"]


def test_labels_map_value_by_value() -> None:
    space = load_label_space("densepass13")
    labels = np.array([[12, 16, 18, 0, 255]], np.uint8)
    assert space.map_labels(labels, CITYSCAPES).tolist() == [[11, 255, 12, 0, 255]]


def test_probabilities_are_summed_before_the_argmax_and_ignored_classes_dropped() -> None:
    space = load_label_space("densepass13")
    p = np.zeros((19, 1, 2), np.float32)
    p[[13, 14, 15, 0], 0, 0] = 0.2, 0.2, 0.2, 0.4  # road has the largest single share, the vehicles together more
    p[[16, 2], 0, 1] = 0.9, 0.1  # train is dropped
    mapped = space.map_probabilities(p, CITYSCAPES)
    assert mapped.argmax(axis=0).tolist() == [[12, 2]]
    np.testing.assert_allclose(mapped.sum(axis=0), 1, rtol=1e-6)


def test_nothing_left_is_uniform() -> None:
    p = np.zeros((19, 1, 1), np.float32)
    p[16] = 1
    mapped = load_label_space("densepass13").map_probabilities(p, CITYSCAPES)
    np.testing.assert_allclose(mapped, 1 / 13)


def test_own_space_by_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write_yaml(path, {"name": "mine", "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]],
                      "mappings": {"cityscapes19": [0] * 18 + [1]}})  # fmt: skip
    assert load_label_space(str(path)).mapping_from(CITYSCAPES)[18] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"palette": [[0, 0, 0]]}, "1 palette colours, expected 2"),
        ({"classes": ["a", "a"]}, "names that differ"),
        ({"ignore_index": 1}, "also a class"),
        ({"mappings": {"x": [2]}}, r"holds \[2\]"),
        ({"things": ["c"]}, "names no class"),
        ({"colour": 1}, "colour: unknown key; expected one of: .*palette"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    write_yaml(path, {"name": "wrong", "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]]} | change)
    with pytest.raises(UserError, match=message) as error:
        load_label_space(str(path))
    assert str(path) in str(error.value)


def test_unknown_names_and_mappings() -> None:
    with pytest.raises(UserError, match="expected one of cityscapes19"):
        load_label_space("cityscape")
    with pytest.raises(UserError, match="no mapping from 'densepass13'"):
        CITYSCAPES.mapping_from(load_label_space("densepass13"))
