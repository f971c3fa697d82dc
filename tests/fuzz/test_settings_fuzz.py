"""Random settings files, manifests, label spaces and `--set` options."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.core.settings import parse_settings
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.data.manifests import Manifest, load_manifest
from pipeline.geometry.views import make_views
from stages.config import COMPONENTS, Config, load_config
from stages.settings.cli import describe
from tests.fuzz.guard import Inputs
from tests.fuzz.inputs import ODD_TEXT, changed, changed_text, values
from tests.fuzz.tiers import tiers
from tests.models import street

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
MANIFESTS = sorted((REPOSITORY / "data_manifests").glob("*.yaml"))
SPACES = sorted((REPOSITORY / "pipeline" / "data" / "label_spaces").glob("*.yaml"))

#: Environment variables that the settings files name.
VARIABLES = {name for path in CONFIGS for name in re.findall(r"\$\{(\w+)\}", path.read_text())}

MANIFEST = {
    "name": "toy",
    "root": "data",
    "label_space": "cityscapes19",
    "preprocessing": {"crop_rows": [0, 64], "size": [64, 256]},
    "splits": {
        "train": {"images": ["a/*.png", "a/p1.png", "d*/**/*"], "exclude": ["*/x*"]},
        "val": {"images": ["b/*"], "labels": {"replace": [["b/", "labels/"], [".png", "_l.png"]]}},
    },
}


@pytest.fixture(autouse=True)
def located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the variables that the settings files name."""
    (tmp_path / "weights.pth").write_bytes(b"")
    for name in VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "weights.pth"))


# ------------------------------------------------------------------------------------------------------------ settings


def use(config: Config) -> None:
    """Uses settings as a run does before the first image."""
    artefacts = config.artefacts(ImagePreprocessing())
    describe(config)
    config.teacher_space(), config.fused_space()
    for section in (config.sam, config.teacher):
        make_views(section.views, 64, 256)
    for kind in ("sam", "masks", "teacher", "fused"):
        artefacts.key(kind)
    if config.sam.generator.kind == "felzenszwalb":
        config.sam.generator.build("cpu")([street(32, 48)])  # type: ignore[attr-defined]
    if config.teacher.model is not None and config.teacher.model.kind == "module":
        config.teacher.model.build("cpu")(np.stack([street(32, 48)]))  # type: ignore[attr-defined]


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


settings_text = st.sampled_from(CONFIGS).flatmap(lambda path: changed_text(path.read_text()))
settings_data = st.sampled_from(CONFIGS).flatmap(lambda path: changed(yaml.safe_load(path.read_text())))


@tiers(settings_text, 40, 2_000)
def test_settings_text(text: str, folder: Path, inputs: Inputs) -> None:
    text = text.replace("../mmseg_configs", str(REPOSITORY / "mmseg_configs"))
    inputs.run(lambda: use(load_config(write_text(folder / "config.yaml", text))))


@tiers(settings_data, 30, 2_000)
def test_settings_values(data: Any, folder: Path, inputs: Inputs) -> None:
    """Without YAML, as from Python."""
    if isinstance(data, dict):
        inputs.run(lambda: use(parse_settings(Config, data, "config", folders=[REPOSITORY / "configs"])))


def places(cls: type[BaseModel], prefix: str = "") -> list[str]:
    """Returns every setting as `section.key`, also by its former name, with those of default components."""
    found = []
    for name, field in cls.model_fields.items():
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        found += [prefix + name, *(prefix + str(old) for old in [marks.get("old_name")] if old)]
        inner = field.get_default(call_default_factory=True)
        if isinstance(inner, BaseModel) and prefix.count(".") < 3:
            found += places(type(inner), f"{prefix}{name}.")
    return found


SECTIONS = {"generator": "sam.generator", "teacher": "teacher.model", "rule": "fusion.rule"}
PLACES = places(Config) + [
    f"{SECTIONS[group]}.{name}"
    for group, components in COMPONENTS.items()
    for kind in components.known_kinds()
    for name in components.component_class(kind).model_fields
]
TEACHER = "teacher.model={kind: module, builder: 'tests.models:tiny_teacher'}"
BASES = [[TEACHER], [TEACHER, "fusion.rule=best"], [TEACHER, "sam.generator=sam"], []]


#: Values that are valid for some settings.
mild = st.one_of(
    st.integers(0, 600).map(str),
    st.floats(0, 1).map(str),
    st.sampled_from(
        ["true", "false", "null", "[64, 256]", "{}", "paper", "best", "whole", "densepass13", "last", "log"]
    ),
)


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    result = list(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(PLACES))
        if draw(st.integers(0, 9)) == 0:
            place = draw(changed_text(place))
        value = draw(st.one_of(mild, mild, values.map(as_yaml), st.sampled_from(ODD_TEXT), st.text(max_size=30)))
        result.append(draw(st.sampled_from([f"{place}={value}"] * 9 + [f"{place}{value}"])))
    return result


def as_yaml(value: Any) -> str:
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n...\n")
    except (ValueError, yaml.YAMLError):  # integers of hundreds of digits are dumped, half surrogate pairs are not
        return repr(value)


@tiers(overrides(), 60, 4_000)
def test_set(options: list[str], folder: Path, inputs: Inputs) -> None:
    inputs.run(lambda: use(load_config(None, options)))


# ----------------------------------------------------------------------------------------------------------- manifests


def lay_out(folder: Path) -> None:
    """Creates a tree of ordinary files, links, loops, folders and a FIFO."""
    data = folder / "data"
    if data.exists():
        return
    for name in ("a/p1.png", "a/x.png", "b/p2.png", "labels/p2_l.png", "deep/er/p3.JPG", "notes.txt", "odd/.x.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    (data / "odd" / "loop.png").symlink_to("loop.png")
    (data / "odd" / "gone.png").symlink_to("nowhere.png")
    (data / "odd" / "up").symlink_to(data)
    (data / "odd" / "out").symlink_to("/etc")
    (data / "odd" / "folder.png").mkdir()
    os.mkfifo(data / "odd" / "fifo.png")


def find(folder: Path, text: str) -> Manifest:
    manifest = load_manifest(write_text(folder / "manifest.yaml", text))
    root = os.path.realpath(manifest.root)
    for record in manifest.images:
        assert record.path.is_file()
        for path in filter(None, (record.path, record.label_path)):
            assert os.path.realpath(path).startswith(root.rstrip("/") + "/")
    return manifest


def rooted(data: Any) -> Any:
    """Returns the manifest with a root inside the test's folder."""
    if isinstance(data, dict) and data.get("root") not in ("data", "", "nowhere"):
        return data | {"root": "data"}
    return data


@tiers(changed(MANIFEST, 4).map(rooted), 60, 3_000)
def test_manifest_values(data: Any, folder: Path, inputs: Inputs) -> None:
    lay_out(folder)
    inputs.run(lambda: find(folder, as_yaml(data)))


@tiers(changed_text(yaml.safe_dump(MANIFEST)), 60, 3_000)
def test_manifest_text(text: str, folder: Path, inputs: Inputs) -> None:
    lay_out(folder)
    if "root: data\n" in text:
        inputs.run(lambda: find(folder, text))


# -------------------------------------------------------------------------------------------------------- label spaces


def look_up(path: Path) -> None:
    space = load_label_space.__wrapped__(str(path))
    labels = np.arange(256, dtype=np.uint8)
    space.colours(labels[None])
    for source in map(lambda p: load_label_space(p.stem), SPACES):
        if source.name in space.mappings:
            space.map_labels(labels, source)
    assert isinstance(space, LabelSpace)


@tiers(st.sampled_from(SPACES).flatmap(lambda p: changed(yaml.safe_load(p.read_text()))).map(as_yaml), 30, 1_000)
def test_label_space_values(text: str, folder: Path, inputs: Inputs) -> None:
    inputs.run(lambda: look_up(write_text(folder / "space.yaml", text)))


@tiers(st.sampled_from(SPACES).flatmap(lambda path: changed_text(path.read_text())), 30, 1_000)
def test_label_space_text(text: str, folder: Path, inputs: Inputs) -> None:
    inputs.run(lambda: look_up(write_text(folder / "space.yaml", text)))
