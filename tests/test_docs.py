"""The code and commands of docs/cache-format.md run, the pipeline reads what they write, and docs name what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.cache import Artefact, Cache, Marker
from pipeline.cache.fused_reader import ensemble_probabilities
from pipeline.cache.marker import encode_id
from pipeline.core.components import Component
from pipeline.core.settings import Settings
from pipeline.data.manifests import load_manifest
from stages.config import COMPONENTS, Config, load_config
from tests.caches import failed, finished
from tests.conftest import Project, write_yaml
from tests.models import street

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "cache-format.md").read_text(encoding="utf-8")
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
IDS = [
    "a",
    "street/first walk",
    "Straße",
    ".hidden",
    " lead",
    "a~b",
    "50%",
    "x" * 161,
    "ä" * 100,
    "y" * 160,
    "a(1),'+_-.b",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Runs every block of Python and shell in order, in a folder with the two panoramas.

    Returns:
        The folder, and the names that the Python blocks define.
    """
    folder = tmp_path_factory.mktemp("page")
    project = Project(folder)
    for k, name in enumerate(("street/first walk.png", "street/Straße 2.png")):
        project.add_image(name, street(seed=k))
    write_yaml(
        project.manifest_path, {"name": "my_panoramas", "root": "images", "splits": {"train": {"images": ["**/*"]}}}
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text, "docs/cache-format.md", "exec"), names)  # the page is part of the repository
            elif language == "sh":
                command = re.sub(r"^(goodsam|python -m pipeline) ", f"{sys.executable} -m pipeline ", text)
                result = subprocess.run(
                    command, shell=True, env=environment, capture_output=True, text=True, check=False
                )
                assert result.returncode == 0, f"{command}{result.stdout}{result.stderr}"
    return folder, names


def fused(folder: Path, *overrides: str) -> Artefact:
    manifest, config = load_manifest(folder / "manifest.yaml"), load_config(None, overrides)
    return Cache(str(folder / "cache"), manifest.name).artefact(
        "fused", config.artefacts(manifest.preprocessing).key("fused")
    )


def test_the_page_runs_and_its_artefacts_are_fused(page: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = page
    for settings in (["fusion.rule=ta"], ["fusion.rule=paper", "sam.artefact=my_masks"]):
        artefact = fused(folder, "teacher.artefact=my_model", *settings)
        assert set(finished(artefact)) == {"street/first walk", "street/Straße 2"}
        assert (artefact.read("street/Straße 2").read_array("label") == 13).all()
        assert failed(artefact) == {}


def test_the_masks_of_the_page_are_placed_across_the_seam(page: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = page
    (masks,) = [a for a in Cache(str(folder / "cache"), "my_panoramas").artefacts() if a.kind == "masks"]
    group = masks.read("street/first walk")
    table, columns = group.read_array("table"), group.attributes["columns"]
    boxes = table[:, [columns.index(f"box_{side}") for side in "xywh"]].astype(int).tolist()
    # columns 100..139 of the view that starts at 128 are columns 228..267 of a panorama of 256 columns
    assert sorted(boxes) == sorted([[20, 8, 40, 32], [30, 16, 20, 8], [228, 8, 40, 32]])


def test_the_formula_of_the_page_equals_the_code(page: tuple[Path, dict[str, Any]]) -> None:
    folder, names = page
    config = load_config(None, ["teacher.artefact=my_model", "fusion.rule=ta"])
    group = fused(folder, "teacher.artefact=my_model", "fusion.rule=ta").read("street/first walk")
    np.testing.assert_allclose(names["ensemble"], ensemble_probabilities(group, config.fused_space()), atol=1e-5)
    from pipeline.geometry.upsample import upsample

    values = np.random.default_rng(0).standard_normal((3, 7, 12)).astype(np.float32)
    np.testing.assert_allclose(names["upsample"](values, 26, 4), upsample(values, 4, 26, cyclic=True), atol=1e-5)


@pytest.mark.parametrize("image_id", IDS)
def test_the_file_name_of_an_image_equals_the_code(page: tuple[Path, dict[str, Any]], image_id: str) -> None:
    assert page[1]["file_name"](image_id) == encode_id(image_id)


def test_the_marker_of_the_page_is_valid() -> None:
    (text,) = [text for language, text in BLOCKS if language == "json"]
    data = " ".join(line.strip() for line in text.splitlines()).encode()  # in the file it is one line
    body = data.rpartition(b", ")[0]
    data = data.replace(b"0123456789abcdef", sha256(body).hexdigest()[:16].encode())
    assert Marker.from_json(data).to_json() == data


def test_every_written_array_and_attribute_is_on_the_page(make_project: Callable[..., Project]) -> None:
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    project = make_project(1)
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    for artefact in Cache(project.config().cache, "toy").artefacts():
        section = PAGE.split(f"### `{artefact.kind}`")[1].split("\n### ")[0]
        if artefact.kind == "masks":
            section += PAGE.split("### `sam`")[1].split("\n### ")[0]
        group = artefact.read("p000")
        for name in group.array_names():
            assert f"`{name}`" in section, (artefact.kind, name)
        for attribute in group.attributes:
            assert f"`{attribute}`" in section + PAGE.split("### Views")[1].split("\n### ")[0], attribute
        for attribute in artefact.attributes():
            assert f"`{attribute}`" in PAGE.split("### Attributes of the root group")[1].split("\n## ")[0], attribute


def test_every_module_of_the_pipeline_is_in_the_table() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in REPOSITORY.glob("pipeline/*/*.py"):
        assert path.stem == "__init__" or f"`{path.parent.name}/{path.stem}`" in page, path


def settings_classes(annotation: Any) -> Iterator[type[Settings]]:
    """Yields the settings classes that a field's annotation allows; for a component, all components."""
    if annotation is Component:
        for group in COMPONENTS.values():
            yield from (group.component_class(kind) for kind in group.known_kinds())
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from settings_classes(argument)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    sections = "|".join(name for name, field in Config.model_fields.items() if list(settings_classes(field.annotation)))
    places = re.findall(rf"(?<![\w./])(?:{sections})(?:\.[a-z_]+)+\b", page.read_text(encoding="utf-8"))
    for place in {place for place in places if not place.endswith((".py", ".pth", ".zip"))}:
        classes: list[type[Settings]] = [Config]
        for name in place.split("."):
            fields = [cls.model_fields[name] for cls in classes if name in cls.model_fields]
            assert fields, f"{page.name}: {place}"
            classes = [cls for field in fields for cls in settings_classes(field.annotation)]
