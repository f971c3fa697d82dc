"""The files on docs/models.md are those of mmsegmentation's model zoo, and fit the configs that use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.project_files import PROJECT_ROOT
from pipeline.models.mmseg_import import import_mmseg

PAGE = (PROJECT_ROOT / "docs" / "models.md").read_text(encoding="utf-8")
TEACHERS = {
    "segformer_b5_cityscapes": "segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py",
    "cgnet_cityscapes": "cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py",
}


@pytest.fixture(scope="module")
def zoo() -> Path:
    """The configs and metafiles that onedl-mmsegmentation installs."""
    import_mmseg()
    import mmseg

    return Path(mmseg.__file__).parent / ".mim" / "configs"


def read_model(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Returns the shape of every tensor of a config's model, and its data preprocessor."""
    from mmengine.config import Config, ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    config = Config.fromfile(path).model.to_dict()
    preprocessor = config.pop("data_preprocessor")
    config["backbone"] |= {"init_cfg": None}  # initial weights would be downloaded
    model: Any = revert_sync_batchnorm(MODELS.build(ConfigDict(config)))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}, preprocessor


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_config_of_a_teacher_fits_the_checkpoint_of_the_model_zoo(zoo: Path, teacher: str) -> None:
    shapes, preprocessor = read_model(PROJECT_ROOT / "mmseg_configs" / "teachers" / f"{teacher}.py")
    expected_shapes, expected_preprocessor = read_model(zoo / TEACHERS[teacher])
    assert shapes == expected_shapes
    for key in ("mean", "std", "bgr_to_rgb"):
        assert preprocessor[key] == expected_preprocessor[key], key


def test_the_files_of_the_page_are_in_the_model_zoo(zoo: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in zoo.glob("*/*") if path.suffix in (".py", ".yaml")]
    published = set(re.findall(r"/v0\.5/(\S+\.pth)", "\n".join(texts)))
    folders = re.findall(r"^folder=\S+/v0\.5/(\S+)\nmodel=(\S+)$(.*?)\$\{model\}(\S+\.pth)", PAGE, re.M | re.S)
    files = [f"{folder}/{model}/{model}{end}" for folder, model, _, end in folders]
    files += re.findall(r"`(pretrain/\S+\.pth)`", PAGE)
    assert len(files) == 6
    assert set(files) <= published
