"""The whole chain by the command line: precompute, fuse, train, evaluate, predict, view."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.core.errors import UserError
from stages.evaluate.stage import evaluate
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.predict.stage import predict
from stages.train.stage import train_student
from tests.conftest import REAL, Project, write_yaml

ROOT = Path(__file__).resolve().parents[1]
STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""


def run(*arguments: object, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments), "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def last_line(result: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture
def small(project: Project) -> Project:
    """A labelled data set and a student of some thousand parameters."""
    for k in range(3):
        project.add_labels(f"p{k:03d}_labelTrainIds.png", np.full((64, 256), k, np.uint8))
    write_yaml(project.manifest_path, {"name": "toy", "root": ".", "splits": {"train": {"images": ["images/*"],
               "labels": {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}}}})  # fmt: skip
    (project.folder / "student.py").write_text(
        STUDENT.format(base=str(ROOT / "mmseg_configs" / "students" / "goodsam_m.py"))
    )
    settings = yaml.safe_load(project.config_path.read_text())
    settings["train"] = {"student": str(project.folder / "student.py"), "iterations": 4, "workers": 0}
    write_yaml(project.config_path, settings)
    return project


@pytest.mark.slow
def test_the_whole_chain_on_a_toy(small: Project, tmp_path: Path) -> None:
    here = small.arguments()
    assert last_line(run("precompute", *here))["teacher"]["computed"] == 3
    assert last_line(run("fuse", *here))["computed"] == 3
    trained = last_line(run("train", *here, "--work-dir", tmp_path / "runs"))
    checkpoint = Path(trained["checkpoint"])
    assert checkpoint.name == "iter_4.pth"
    again = last_line(run("train", *here, "--work-dir", tmp_path / "runs"))
    assert again == trained
    scores = last_line(run("evaluate", *here, "--student", checkpoint))
    assert set(scores) == {
        "stage",
        "label_space",
        "failed",
        "TA, stitched",
        "ensemble (paper)",
        f"student {checkpoint.parent.name}",
    }
    predicted = run("predict", small.folder / "images", "--student", checkpoint, "--out", tmp_path / "out")
    assert last_line(predicted)["images"] == 3
    labels = np.asarray(Image.open(tmp_path / "out" / "labels" / "p000.png"))
    assert labels.shape == (64, 256)
    assert labels.max() < 19
    assert Image.open(tmp_path / "out" / "overlays" / "p000.png").mode == "RGB"
    run("view", "images/p001", *here, "--student", checkpoint, "--out", tmp_path / "view.png")
    assert Image.open(tmp_path / "view.png").height > 6 * 64
    inspected = last_line(run("inspect", *here))
    assert {name.split("/")[1] for name in inspected} == {"sam", "masks", "teacher", "fused"}
    assert all(figures["bytes_per_image"] > 0 for figures in inspected.values())


@pytest.mark.slow
def test_gaps_are_refused_unless_allowed(small: Project, tmp_path: Path) -> None:
    (small.folder / "images" / "p001.png").write_bytes(b"broken")
    here = small.arguments()
    run("precompute", *here, expect=3)
    run("fuse", *here, expect=3)
    refused = run("train", *here, "--work-dir", tmp_path, expect=2)
    assert "of 3 panoramas 1 cannot be trained on, the first is 'images/p001' (" in refused.stderr
    trained = last_line(run("train", *here, "--work-dir", tmp_path, "--allow-partial"))
    ids = json.loads((Path(trained["checkpoint"]).parent / "train_images.json").read_text())
    assert ids == ["images/p000", "images/p002"]


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("path", ["sam", "teacher", "train", "predict", "evaluate"])
def test_a_checkpoint_that_carries_code_is_refused_on_every_path(small: Project, tmp_path: Path, path: str) -> None:
    evil, proof = tmp_path / "evil.pth", tmp_path / "executed"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": Evil(proof)}, evil, pickle_module=pickle)
    manifest, config = small.manifest(), small.config()
    if path in ("train", "evaluate"):
        precompute(manifest, config)
        fuse(manifest, config)
    refused = {
        "sam": lambda: precompute(
            manifest, small.config(f"sam.generator={{kind: sam, model_type: vit_b, checkpoint: {evil}}}")
        ),
        "teacher": lambda: precompute(manifest, small.config(f"teacher.model.checkpoint={evil}")),
        "train": lambda: train_student(manifest, small.config(f"train.load_from={evil}"), tmp_path / "run"),
        "predict": lambda: predict({"p": small.folder / "images" / "p000.png"}, evil, tmp_path),
        "evaluate": lambda: evaluate(manifest, [config], students=[evil]),
    }[path]
    with pytest.raises(UserError, match=re.escape(str(evil))):
        refused()
    assert not proof.exists()


def test_the_malicious_checkpoint_would_have_worked(tmp_path: Path) -> None:
    """Without protection the file of the test above does execute: the test can fail."""
    proof = tmp_path / "executed"
    torch.save({"meta": Evil(proof)}, tmp_path / "evil.pth", pickle_module=pickle)
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert proof.exists()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real panoramas are not here ({REAL})")
def test_real_panoramas_with_a_real_ta(tmp_path: Path) -> None:
    where = {
        "MY_PANORAMAS": str(REAL / "panoramas"),
        "TA_CHECKPOINT": str(REAL / "teacher" / "cgnet_cityscapes_19.pth"),
    }
    here = ["--manifest", "data_manifests/my_panoramas.yaml", "--config", "configs/no_sam.yaml", "--cache", tmp_path]
    assert last_line(run("precompute", *here, **where))["sam"]["computed"] == 6
    for rule in ("ta", "ssa", "paper"):
        assert last_line(run("fuse", *here, "--fusion", rule, **where))["computed"] == 6
    again = last_line(run("precompute", *here, **where))
    assert [again[kind]["computed"] for kind in ("sam", "masks", "teacher")] == [0, 0, 0]
    per_image = sum(figures["bytes_per_image"] for figures in last_line(run("inspect", *here, **where)).values())
    assert per_image < 6 * 2**20
