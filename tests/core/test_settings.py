"""Settings: stable keys, clear errors, overrides."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.settings import (
    NOT_IN_KEY,
    OldNameWarning,
    Settings,
    apply_overrides,
    parse_settings,
    renamed,
    renamed_value,
    short_hash,
)
from pipeline.data.images import ImagePreprocessing
from stages.config import Config, load_config
from stages.fuse.settings import RULES
from stages.options import RunOptions
from stages.precompute.settings import MaskSettings
from tests.conftest import Project, write_yaml

GOLDEN = Path(__file__).parents[1] / "golden"
TEACHER = {"model": {"kind": "module", "builder": "tests.models:tiny_teacher"}}


def keys(config: Config, preprocessing: ImagePreprocessing = ImagePreprocessing()) -> dict[str, str]:
    artefacts = config.artefacts(preprocessing)
    return {kind: artefacts.key(kind) for kind in ("sam", "masks", "teacher", "fused")}


def by_key_names(settings: Settings) -> dict[str, Any]:
    """Every setting but those of `train`, and the cache, under the names that keys hold."""
    values = {}
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(settings, name)
        values[str(extra.get("old_name", name))] = by_key_names(value) if isinstance(value, Settings) else value
    return json.loads(json.dumps({name: value for name, value in values.items() if name not in ("train", "cache")}))


def test_golden_keys() -> None:
    """A new setting with its default must leave the keys of existing caches as they are."""
    config = Config.model_validate({"teacher": TEACHER})
    assert keys(config) == json.loads((GOLDEN / "keys.json").read_text())


def test_golden_defaults() -> None:
    """Fields at their default are not hashed, so a default may only change with a higher ALGORITHM (and this file)."""
    config = Config.model_validate({"teacher": TEACHER, "sam": {"generator": {"kind": "sam", "random_weights": True}}})
    golden = json.loads((GOLDEN / "defaults.json").read_text())
    for retired in MaskSettings.retired:
        del golden["masks"][retired]
    assert by_key_names(config) == golden


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("sam.generator={kind: felzenszwalb, scale: 50}", {"sam", "masks", "fused"}),
        ("sam.views.stride=128", {"sam", "masks", "fused"}),
        ("masks.filter.min_area=9", {"masks", "fused"}),
        ("masks.merge.merge_iou_thresh=0.9", {"masks", "fused"}),
        ("teacher.views.width=1024", {"teacher", "fused"}),
        ("teacher.model.precision=bfloat16", {"teacher", "fused"}),
        ("fusion.rule={kind: paper, theta: 0.5}", {"fused"}),
        ("fusion.pooling.mode=log", {"fused"}),
        ("fusion.label_space=densepass13", {"fused"}),
        ("teacher.model.batch_size=1", set()),
        ("device=cpu", set()),
        ("cache=elsewhere", set()),
        ("train.seed=5", set()),
        ("fusion.rule={kind: paper, theta: 0.7}", set()),
    ],
)
def test_a_key_changes_with_what_determines_the_result_and_nothing_else(change: str, changed: set[str]) -> None:
    base = {"teacher": TEACHER}
    before = keys(Config.model_validate(base))
    after = keys(Config.model_validate(apply_overrides(base, [change])))
    assert {kind for kind in before if before[kind] != after[kind]} == changed


def test_the_rule_ta_does_not_depend_on_masks() -> None:
    base = {"teacher": TEACHER, "fusion": {"rule": "ta"}}
    before = keys(Config.model_validate(base))
    after = keys(Config.model_validate(apply_overrides(base, ["sam.generator={kind: felzenszwalb, scale: 50}"])))
    assert before["sam"] != after["sam"]
    assert before["fused"] == after["fused"]


def test_every_rule_has_a_key_of_its_own() -> None:
    rules = [*RULES.known_kinds(), "tests.rules:Extra"]
    found = {keys(Config.model_validate({"teacher": TEACHER, "fusion": {"rule": rule}}))["fused"] for rule in rules}
    assert len(found) == len(rules)


def test_preparation_is_part_of_the_keys_of_stage_one() -> None:
    config = Config.model_validate({"teacher": TEACHER})
    assert all(
        keys(config)[kind] != keys(config, ImagePreprocessing(size=(200, 1024)))[kind]
        for kind in ("sam", "teacher", "fused")
    )


def test_files_count_by_content(tmp_path: Path) -> None:
    class WithFile(Settings):
        weights: Path

    a, b = tmp_path / "a.pth", tmp_path / "b.pth"
    a.write_bytes(b"same")
    b.write_bytes(b"same")
    same = short_hash(WithFile(weights=a).key_parts()) == short_hash(WithFile(weights=b).key_parts())
    b.write_bytes(b"other")
    other = short_hash(WithFile(weights=a).key_parts()) == short_hash(WithFile(weights=b).key_parts())
    assert (same, other) == (True, False)


def test_python_configs_count_by_code_and_bases_not_by_layout(tmp_path: Path) -> None:
    class WithConfig(Settings):
        config: Path

    base, top = tmp_path / "base.py", tmp_path / "top.py"

    def key() -> str:
        return short_hash(WithConfig(config=top).key_parts())

    base.write_text("channels = 8\n")
    top.write_text("_base_ = 'base.py'\nmodel = dict(type='A')\n")
    before = key()
    top.write_text("# a comment\n_base_ = 'base.py'\n\nmodel = dict(\n    type='A')\n")
    assert key() == before
    base.write_text("channels = 16\n")
    assert key() != before
    base.write_text("_base_ = 'top.py'\n")
    with pytest.raises(UserError, match="_base_ includes the file itself"):
        key()


def test_not_in_key_and_defaults() -> None:
    class Some(Settings):
        a: int = 1
        b: int = Field(2, json_schema_extra=NOT_IN_KEY)

    assert Some().key_parts() == {}
    assert Some(b=5).key_parts() == {}
    assert Some(a=3).key_parts() == {"a": 3}


class Inner(Settings):
    number: int = Field(1, json_schema_extra=renamed("count"))


class Outer(Settings):
    """Settings with former names: `section` and `section.count`, a former value and a setting without effect."""

    retired: ClassVar[dict[str, str]] = {"strength": "nothing reads it"}

    inner: Inner = Field(Inner(), json_schema_extra=renamed("section"))
    mode: Literal["mean", "sum"] = Field("mean", json_schema_extra=renamed_value("plus", "sum"))


RENAMED = [
    "settings: 'count' is now named 'number'; the old name still works",
    "settings: 'section' is now named 'inner'; the old name still works",
]


def texts(caught: list[warnings.WarningMessage]) -> list[str]:
    assert all(issubclass(warning.category, OldNameWarning) for warning in caught)
    return sorted(str(warning.message) for warning in caught)


def test_old_names_are_read_with_a_warning_and_stay_in_keys() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old = parse_settings(Outer, {"section": {"count": 2}, "mode": "plus", "strength": 3}, "here")
    assert texts(caught) == [
        *RENAMED[:1],
        "settings: 'plus' is now named 'sum'; the old name still works",
        *RENAMED[1:],
        "settings: 'strength' has no effect: nothing reads it",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = parse_settings(Outer, {"inner": {"number": 2}, "mode": "sum"}, "here")
    assert old == new
    assert new.key_parts() == {"section": {"count": 2}, "mode": "plus"}
    assert Outer().key_parts() == {}


def test_a_setting_by_both_names_is_refused() -> None:
    with pytest.raises(UserError, match=r"inner: .*; 'count' is the old name of 'number'; expected one of them"):
        parse_settings(Outer, {"inner": {"count": 2, "number": 2}}, "here")


@pytest.mark.parametrize("data", [{}, {"section": {"count": 1}}, {"inner": {"number": 1}}, {"inner": {"count": 1}}])
@pytest.mark.parametrize("override", ["section.count=3", "inner.number=3", "section.number=3", "section={count: 3}"])
def test_an_override_by_either_name_replaces_a_value_by_either_name(data: dict[str, Any], override: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert parse_settings(Outer, apply_overrides(data, [override], Outer), "here") == Outer(inner=Inner(number=3))
    given = str(data) + override
    assert texts(caught) == [text for text, old in zip(RENAMED, ("count", "section"), strict=True) if old in given]


def test_old_names_of_the_real_settings() -> None:
    base = {"teacher": TEACHER}
    old = ["masks.lift.agreement=0.7", "masks.boundary_strength=true", "train.select=agreement"]
    new = ["masks.merge.merge_iou_thresh=0.7", "train.select=pseudo_label_miou"]
    with pytest.warns(OldNameWarning):
        given = Config.model_validate(apply_overrides(base, old, Config))
    assert given == Config.model_validate(apply_overrides(base, new, Config))
    assert given.masks.key_parts() == {"lift": {"agreement": 0.7}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tecaher: {}", "tecaher: unknown key; expected one of: .*teacher"),
        ("sam: {views: {widht: 5}}", "sam.views.widht: unknown key; expected one of: .*; did you mean width"),
        ("sam: {views: {width: wide}}", "sam.views.width: found 'wide'"),
        ("fusion: {rule: {kind: paper, theta: 2}}", "fusion.rule.theta: found 2"),
        ("fusion: {rule: vote}", "rule kind 'vote' is not known; expected one of best, .*paper"),
        ("fusion: {rule: 'os:path'}", "expected a subclass"),
        ("sam: {generator: 'nowhere:Generator'}", "cannot be imported"),
        (
            "sam: {generator: {kind: felzenszwalb, scael: 3}}",
            "sam.generator.scael: unknown key; expected one of: kind, min_size, scale, sigma; did you mean scale",
        ),
        ("sam: {generator: {scael: 3}}", "sam.generator.scael: unknown key; expected one of: kind, min_size, scale"),
        (
            "fusion: {rule: {kind: paper, thta: 3}}",
            "rule.thta: unknown key; expected one of: composition, kind, theta; did you mean",
        ),
        (
            "fusion: {rule: {thta: 3}}",
            "fusion.rule.thta: unknown key; expected one of: composition, kind, theta; did you mean theta",
        ),
        (
            "fusion: {rule: {strength: 3}}",
            "unknown key; expected one of: composition, kind, theta; strength is a setting of best$",
        ),
        ("teacher: {model: {bilder: 3}}", "teacher.model: found .*; expected a mapping with the key 'kind'"),
        (
            "teacher: {model: {kind: module, bilder: 3}}",
            "model.bilder: unknown key; expected one of: .*builder",
        ),
        ("sam: {views: {additional: [{widht: 3}]}}", "views.additional.0.widht: unknown key; .*did you mean width"),
        ("fusion: {rule: {kind: vote, thta: 3}}", "rule kind 'vote' is not known"),
        ("sam: {generator: {kind: felzenszwalb, scale: .inf}}", "sam.generator.scale: found inf; .*finite number"),
        ("teacher: {model: {kind: module, builder: x, std: [1, .nan, 1]}}", "teacher.model.std.1: found nan; .*finite"),
        (
            "teacher: {model: {kind: module, builder: x, std: [1, 0, 1]}}",
            "model.std.1: found 0; .*greater than 0",
        ),
        ("teacher: {model: {kind: module, builder: x, scale: 0.0001}}", "teacher.model.scale: found 0.0001"),
        ("sam: {generator: {kind: sam, crop_n_layers: 1000000000}}", "sam.generator.crop_n_layers: found 1000000000"),
        ("sam: {generator: base}", "generator kind 'base' is not known"),
        ("sam: {generator: ':x'}", "cannot be imported"),
        ("sam: {generator: '.a:x'}", "cannot be imported"),
        (
            "sam: {generator: 'stages.precompute.generators.base:MaskGenerator'}",
            "is abstract; expected",
        ),
        ("sam: {generator: 'stages.fuse.rules.best:SoftMaskVote'}", "expected a subclass of .*MaskGenerator"),
        ("teacher: {label_space: '~nobody-of-that-name/x.yaml'}", "teacher.label_space: .*home folder"),
        ("cache: ~nobody-of-that-name/x", "cache: .*home folder"),
        ("train: {load_from: " + "x" * 5000 + ", split: 1}", "train.split"),
        ("sam: {artefact: " + "x" * 200 + "}", "sam.artefact"),
        ("sam: {views: {kind: perspective, size: 1000000000}}", "sam.views.size: found 1000000000"),
        ("nothing: " + "x" * 5000, "nothing: unknown key"),
        ("- 1", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("cache: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_wrong_config_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_a_value_that_no_key_can_hold_is_refused() -> None:
    for value in (float("nan"), float("inf")):
        model = {**TEACHER["model"], "options": {"classes": value}}
        with pytest.raises(UserError, match="which cannot be part of a key; expected a finite number"):
            keys(Config.model_validate({"teacher": {"model": model}}))


def test_overrides_are_shortened_before_they_are_printed() -> None:
    for override in ("x" * 10**6, "a=" + "[" * 10**6, ".".join("a" * 500) + "=1", "a..b=1", "=1"):
        with pytest.raises(UserError, match=r"^--set .*(expected|not valid|deeper)") as error:
            load_config(None, [override])
        assert len(str(error.value)) < 900
    with pytest.raises(UserError, match="unknown key") as error:
        load_config(None, ["a=" + "x" * 10**6] * 3)
    assert len(str(error.value)) < 2000


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_yaml(path, {"sam": {"views": {"width": 0}}, "nothing": 1, "teacher": {"views": {"stride": -1}}})
    with pytest.raises(UserError, match="3 problems"):
        load_config(path)


def test_overrides() -> None:
    data = {"a": {"b": 1}}
    numbers = ["a.b=1e-3", "a.c=[2E5, -1.5e+2, e3, 1e]"]
    assert apply_overrides(data, numbers)["a"] == {"b": 0.001, "c": [2e5, -150.0, "e3", "1e"]}
    assert apply_overrides(data, ["a.b=2", "a.c=[1, x]", "d=null"]) == {"a": {"b": 2, "c": [1, "x"]}, "d": None}
    assert data == {"a": {"b": 1}}
    for wrong, message in [("a.b", "section.key=value"), ("a.b.c=1", "expected a section"), ("a=[", "not valid YAML")]:
        with pytest.raises(UserError, match=message):
            apply_overrides(data, [wrong])


def test_settings_without_a_kind_are_those_of_the_default_component() -> None:
    assert load_config(None, ["fusion.rule.theta=0.8"]) == load_config(None, ["fusion.rule={kind: paper, theta: 0.8}"])
    with pytest.raises(UserError, match="expected a mapping with the key 'kind'"):
        load_config(None, ["teacher.model.scale=1"])


def test_a_rule_named_by_its_kind_has_settings_too() -> None:
    assert apply_overrides({"fusion": {"rule": "paper"}}, ["fusion.rule.theta=0.8"]) == {
        "fusion": {"rule": {"kind": "paper", "theta": 0.8}}
    }
    with pytest.raises(UserError, match=r"cache: found .*valid string"):
        parse_settings(Config, apply_overrides({"cache": "folder"}, ["cache.size=1"]), "here")


@pytest.mark.parametrize(
    ("fusion", "overrides", "rule"),
    [
        ("paper", ["fusion.rule.theta=0.9"], {"kind": "paper", "theta": 0.9, "composition": "nearest"}),
        (
            "paper",
            ["fusion.rule.theta=0.9", "fusion.rule={kind: best, strength: 0.1}"],
            {"kind": "paper", "theta": 0.9, "composition": "nearest"},
        ),
        ("sepl", ["fusion.rule={kind: sepl, share: 0.6}"], {"kind": "sepl", "share": 0.6, "cover": 0.85}),
        ("ta", [], {"kind": "ta"}),
        (
            None,
            ["fusion.rule.theta=0.9", "fusion.rule=paper"],
            {"kind": "paper", "theta": 0.9, "composition": "nearest"},
        ),
    ],
)
def test_the_rule_comes_before_its_settings(
    tmp_path: Path, fusion: str | None, overrides: list[str], rule: dict[str, Any]
) -> None:
    path = tmp_path / "config.yaml"
    write_yaml(path, {"fusion": {"rule": "ssa"}})
    config = load_config(path, RunOptions(config=path, set_=list(overrides)).overrides(fusion))
    assert config.fusion.rule.model_dump() == rule


def test_files_are_relative_to_the_yaml_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = project.folder / "weights.pth"
    weights.write_bytes(b"x")
    settings = yaml.safe_load(project.config_path.read_text())
    settings["teacher"]["model"]["checkpoint"] = "weights.pth"
    write_yaml(project.config_path, settings)
    assert project.config().teacher.model.checkpoint == weights
    settings["teacher"]["model"]["checkpoint"] = "${MY_WEIGHTS}"
    write_yaml(project.config_path, settings)
    with pytest.raises(UserError, match=r"teacher.model.checkpoint: .* MY_WEIGHTS is not set"):
        project.config()
    monkeypatch.setenv("MY_WEIGHTS", str(weights))
    assert project.config().teacher.model.checkpoint == weights


def test_a_missing_checkpoint_is_an_error_when_a_key_needs_it(project: Project) -> None:
    config = project.config("teacher.model.checkpoint=nowhere.pth")
    with pytest.raises(UserError, match=r"nowhere.pth: no such file"):
        config.artefacts(ImagePreprocessing()).key("teacher")


@pytest.mark.parametrize("place", ["teacher.label_space", "fusion.label_space", "train.student", "train.schedule"])
def test_files_beside_the_settings_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    ending = "yaml" if "space" in place else "py"
    for name in (f"mine.{ending}", f"goodsam_m.{ending}"):
        (tmp_path / name).write_text("")
    section, key = place.split(".")
    for value, expected in ((f"mine.{ending}", str(tmp_path / f"mine.{ending}")), ("goodsam_m", "goodsam_m")):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({section: {key: value}}))
        monkeypatch.chdir("/")
        assert getattr(getattr(load_config(tmp_path / "run.yaml"), section), key) == expected
