"""Three first users work through the README with the installed command, in a folder outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.core.project_files import PROJECT_ROOT
from tests.models import street

pytestmark = pytest.mark.slow

GOODSAM = Path(sys.executable).with_name("goodsam")

#: A robot's classes, and the Cityscapes classes that they are made of.
FIVE = {
    "name": "five",
    "classes": ["road", "sidewalk", "construction", "person", "vehicle"],
    "palette": [[128, 64, 128], [244, 35, 232], [70, 70, 70], [220, 20, 60], [0, 0, 142]],
    "things": ["person", "vehicle"],
    "mappings": {"cityscapes19": [0, 1, 2, 2, 2, 255, 255, 255, 255, 255, 255, 3, 3, 4, 4, 4, 4, 4, 4]},
}

MY_TA = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 19, kernel_size=4, stride=4)
"""

RUN_ONNX = """
import sys
for name in ("torch", "mmengine", "mmcv", "mmseg", "zarr", "dask", "distributed"):
    sys.modules[name] = None
from pipeline.models.load import load_student
student = load_student(sys.argv[1])
labels = student.predict(sys.argv[2])
print(labels.shape, labels.dtype, student.space.classes, student.space.things)
"""


class User:
    """A user with a folder of panoramas, a manifest, settings and a TA of her own.

    Attributes:
        folder: her working directory.
        options: her manifest and settings, as she types them.
    """

    def __init__(self, folder: Path, images: int = 4) -> None:
        self.folder = folder
        self.options = ["--manifest", "my.yaml", "--config", "settings.yaml"]
        (folder / "panoramas").mkdir()
        for k in range(images):
            Image.fromarray(street(seed=k)).save(folder / "panoramas" / f"walk {k}.png")
        (folder / "my_ta.py").write_text(MY_TA)
        (folder / "five.yaml").write_text(yaml.safe_dump(FIVE))
        manifest = yaml.safe_load((PROJECT_ROOT / "data_manifests" / "my_panoramas.yaml").read_text())
        manifest["preprocessing"] = {"crop_rows": [0, 60], "size": [64, 256]}
        (folder / "my.yaml").write_text(yaml.safe_dump(manifest))
        shutil.copy(PROJECT_ROOT / "configs" / "no_sam.yaml", folder / "copy.yaml")
        settings = yaml.safe_load((folder / "copy.yaml").read_text())
        settings["sam"]["views"] = settings["teacher"]["views"] = {"width": 128, "stride": 64}
        settings["teacher"]["model"] = {"kind": "module", "builder": "my_ta:build"}
        settings["train"] = {"student": "goodsam_m", "iterations": 2, "workers": 0}
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))

    def type(self, *command: str, status: int = 0) -> str:
        """Runs `goodsam` with `command`; returns all that it prints. Fails for another exit status."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOODSAM_", "TA_CHECK", "SAM_CHECK"))}
        environment |= {
            "MY_PANORAMAS": str(self.folder / "panoramas"),
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "COLUMNS": "100",
        }
        done = subprocess.run(
            [GOODSAM, *command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def figures(self, *command: str) -> dict[str, Any]:
        """The figures that a command prints with `--json`."""
        lines = self.type(*command, "--json").splitlines()
        figures: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
        return figures


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_a_robotics_engineer_with_a_camera_and_five_classes(user: User) -> None:
    assert "${TA_CHECKPOINT}" in user.type("settings", "--config", "copy.yaml")
    assert "no_sam" in user.type("precompute", "--manifest", "my.yaml", "--config", "nosam", status=2)
    user.type("precompute", *user.options)
    five = [*user.options, "--fusion", "best", "--set", "fusion.label_space=five.yaml"]
    user.type("fuse", *five)
    checkpoint = user.figures("train", *five)["checkpoint"]
    user.type("export", "--student", checkpoint, "--out", "student.onnx")
    user.type("predict", "panoramas", "--student", "student.onnx", "--out", "predicted")
    label = user.folder / "predicted" / "labels" / "walk 0.png"
    with Image.open(label) as picture:
        assert picture.mode == "P"  # an image viewer shows colours
        assert np.asarray(picture).max() < 5
    run = [sys.executable, "-c", RUN_ONNX, "student.onnx", "panoramas/walk 0.png"]
    done = subprocess.run(run, cwd=user.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(64, 256) uint8" in done.stdout
    assert "('person', 'vehicle')" in done.stdout
    # label files are drawn in the manifest's classes, pseudo-labels in those of fusion.label_space: this is reported
    manifest = yaml.safe_load((user.folder / "my.yaml").read_text())
    (user.folder / "my.yaml").write_text(yaml.safe_dump(manifest | {"label_space": "five.yaml"}))
    assert "fusion.label_space" in user.type("fuse", *user.options, "--fusion", "ta")


def test_a_researcher_who_varies_rules(user: User) -> None:
    user.type("precompute", *user.options)
    made = user.figures("fuse", *user.options, "--fusion", "paper")
    assert made["computed"] == 4
    again = user.figures("fuse", *user.options, "--fusion", "paper")
    assert (again["computed"], again["reused"]) == (0, 4)
    vary = ["--vary", "fusion.rule=ta,paper,best"]
    table = user.type("ablate", *user.options, *vary, "--sheets", "sheets", "--out", "table.csv")
    assert "paper" in table
    sheet = next(user.folder.glob("sheets/*.jpg"))
    with Image.open(sheet) as picture:
        assert picture.width <= 3200
    refused = user.type("ablate", *user.options, "--vary", "train.circular_padding=true,false", status=2)
    assert "train.circular_padding" in refused
    misspelled = user.type("fuse", *user.options, "--fusion", "paper", "--set", "fusion.rule.thta=0.3", status=2)
    assert "theta" in misspelled
    assert "strength" in user.type(
        "ablate", *user.options, "--fusion", "paper", "--vary", "fusion.rule.strength=0.3,0.5", status=2
    )
    user.type("view", "walk 0", *user.options, "--fusion", "paper", "--out", "walk.png")
    user.type("labels", *user.options, "--fusion", "paper", "--out", "labels")


def test_a_lab_engineer_who_shards_and_verifies(user: User) -> None:
    assert "goodsam" in user.type("--version")
    user.type("-h")
    assert "no such" in user.type("inspect", "--cache", "nowhere", status=2)
    user.type("precompute", *user.options, "--workers", "2")
    for shard in ("0/2", "1/2"):
        user.type("fuse", *user.options, "--fusion", "best", "--shard", shard)
    assert "0/2" in user.type("fuse", *user.options, "--shard", "2/2", status=2)
    assert user.figures("fuse", *user.options, "--fusion", "best")["reused"] == 4
    assert user.figures("verify", *user.options)["damaged"] == 0
    user.type("inspect", *user.options)
    assert "artefacts" in user.type("doctor", *user.options)
