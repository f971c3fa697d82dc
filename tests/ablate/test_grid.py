"""`--vary` and the settings that follow from it."""

from __future__ import annotations

import itertools
import json
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.data.images import ImagePreprocessing
from stages.ablate.grid import Vary, check_effect, column_titles, combinations, format_value, parse_vary
from stages.config import Config, load_config
from tests.conftest import Project


@pytest.mark.parametrize(
    ("text", "places", "values"),
    [
        ("fusion.rule.theta=0.3,0.5", ("fusion.rule.theta",), (0.3, 0.5)),
        ("fusion.rule=paper, best", ("fusion.rule",), ("paper", "best")),
        ("fusion.rule=ta,{kind: paper, theta: 0.9}", ("fusion.rule",), ("ta", {"kind": "paper", "theta": 0.9})),
        ("a.b, c.d={width: 8, stride: 4}", ("a.b", "c.d"), ({"width": 8, "stride": 4},)),
        ("views.pitches=[-60, 0],[0]", ("views.pitches",), ([-60, 0], [0])),
        ("fusion.boundary_radius=null,4", ("fusion.boundary_radius",), (None, 4)),
        ("x='a=b'", ("x",), ("a=b",)),
    ],
)
def test_values_are_yaml_with_commas_between(text: str, places: tuple[str, ...], values: tuple[Any, ...]) -> None:
    assert parse_vary(text) == Vary(places, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fusion.rule", "expected the form section.key=value,value"),
        ("=1", "expected the form section.key=value,value"),
        ("a,,b=1", "expected the form section.key=value,value"),
        ("a=", "found no value"),
        ("a={b", "not valid YAML"),
        ("a=1],[2", "not valid YAML"),
    ],
)
def test_text_that_is_no_list_of_values_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_vary(text)


text = st.text(st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_categories=["Cc", "Zs"]), max_size=8)
numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
value = st.none() | st.booleans() | numbers | text


def fused_key(config: Config) -> str:
    return config.artefacts(ImagePreprocessing()).key("fused")


@given(st.lists(value | st.lists(value, max_size=3) | st.dictionaries(text, value), min_size=1))
def test_every_yaml_value_is_read_back(values: list[Any]) -> None:
    flow = json.dumps(values, ensure_ascii=False)  # JSON is YAML, and quotes every text
    assert parse_vary(f"a.b={flow[1:-1]}") == Vary(("a.b",), tuple(values))


@given(st.permutations(["fusion.rule=paper,best", "fusion.rule.theta=0.3,0.6", "teacher.views.stride=128,256"]))
def test_a_row_equals_a_settings_file_with_its_values(texts: list[str]) -> None:
    varied = [parse_vary(text) for text in texts]
    rows = combinations(None, ["fusion.rule=ssa", "sam.views.width=256", "sam.views.stride=128"], varied)
    assert len(rows) == 8
    for row, values in zip(rows, itertools.product(*(v.values for v in varied)), strict=True):
        found = dict(zip((vary.places[0] for vary in varied), values, strict=True))
        rule = {"kind": found["fusion.rule"], "theta": found["fusion.rule.theta"]}
        wanted = [f"fusion.rule={rule}", f"teacher.views.stride={found['teacher.views.stride']}"]
        assert row.config == load_config(None, [*wanted, "sam.views.width=256", "sam.views.stride=128"])
        assert row.values == dict(zip(column_titles(varied), values, strict=True))


def test_settings_that_change_together_take_the_same_value(project: Project) -> None:
    varied = [parse_vary("sam.views,teacher.views={width: 64, stride: 32},{width: 128, stride: 128}")]
    rows = combinations(project.config_path, [], varied)
    assert [(row.config.sam.views.width, row.config.teacher.views.stride) for row in rows] == [(64, 32), (128, 128)]
    assert all(row.config.sam.views == row.config.teacher.views for row in rows)
    assert [row.name for row in rows] == ["views width 64, stride 32", "views width 128, stride 128"]


def test_a_setting_inside_a_varied_section_is_not_lost() -> None:
    (row,) = combinations(None, ["fusion.rule.theta=0.9"], [parse_vary("fusion.rule=best")])
    assert row.config.fusion.rule.model_dump()["theta"] == 0.9


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fusion.rule=paper,papr"], "fusion.rule: found .*papr.* is not known; expected one of best"),
        (["fusion.rule=ta,paper", "fusion.rule.theta=0.5"], "fusion.rule.theta: unknown key"),
        (["fusion.rule=paper", "fusion.rule.theta=0.5,1.5"], "found 1.5; input should be less than or equal to 1"),
        (["fusion.theta=1"], "fusion.theta: unknown key; expected one of: .*rule"),
        (["fusion.rule=ta", "fusion.rule=ssa"], "fusion.rule occurs twice"),
        (["teacher.views.stride=600"], "stride 600 is wider than the window"),
    ],
)
def test_a_wrong_combination_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        combinations(None, [], [parse_vary(text) for text in texts])


def test_titles_are_short_unless_ambiguous() -> None:
    same = ["sam.views.width=1", "teacher.views.width=2", "fusion.rule=ta"]
    assert column_titles([parse_vary(text) for text in same]) == ["sam.views.width", "teacher.views.width", "rule"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0.5, "0.5"),
        ("paper", "paper"),
        (None, "null"),
        ({"kind": "a", "b": [1]}, "kind a, b [1]"),
        ({"config": "../mmseg_configs/teachers/a.py"}, "config a.py"),
    ],
)
def test_values_are_formatted_on_one_line(given: Any, text: str) -> None:
    assert format_value(given) == text


def test_an_old_name_is_reported_once_for_all_rows() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        rows = combinations(None, [], [parse_vary("masks.lift.agreement=0.3,0.7")])
    assert [row.config.masks.merge.merge_iou_thresh for row in rows] == [0.3, 0.7]
    assert len(caught) == 2  # `lift` and `agreement`


@pytest.mark.parametrize(
    "text", ["train.circular_padding=true,false", "teacher.model.batch_size=1,2", "device=cpu,cuda"]
)
def test_a_setting_without_effect_on_the_rows_is_refused(project: Project, text: str) -> None:
    varied = [parse_vary("fusion.rule=ta,paper"), parse_vary(text)]
    rows = combinations(project.config_path, [], varied)
    with pytest.raises(UserError, match=f"--vary {text.partition('=')[0]}: changes no ensemble"):
        check_effect(rows, varied, fused_key)


@pytest.mark.parametrize("text", ["fusion.rule.theta=0.3,0.7", "masks.filter.min_area=16,32", "device=cpu"])
def test_a_setting_may_act_in_some_of_the_rows(project: Project, text: str) -> None:
    """`theta` and masks are settings of some rules only, and a single value needs no effect."""
    rules = "fusion.rule=paper,best" if "theta" in text else "fusion.rule=ta,paper"
    varied = [parse_vary(rules), parse_vary(text)]
    check_effect(combinations(project.config_path, [], varied), varied, fused_key)
