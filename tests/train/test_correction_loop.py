"""The loop on the demo world, by its commands: label maps out, two of them corrected, and trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.cli import run_command
from pipeline.data.corrections import CorrectedReader
from pipeline.data.images import ImagePreprocessing, read_labels
from pipeline.data.label_files import label_file
from pipeline.data.manifests import load_manifest
from pipeline.models.weights import load_state_dict
from stages.config import load_config
from stages.train.stage import read_corrections

RUN = ["--manifest", "demo_world/manifest.yaml", "--config", "demo"]
SHORT = ["--set", "train.iterations=2", "--set", "train.batch_size=2"]
CORRECTED = ("images/target-train/target-train-00001", "images/target-train/target-train-00003")


def goodsam(*arguments: str) -> tuple[str, str]:
    """Returns what a command prints on stdout and on stderr."""
    done = run_command(*arguments, *RUN, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_true_labels_of_two_panoramas_reach_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demo.__main__ import render_world
    from demo.world import sample_paths

    monkeypatch.chdir(tmp_path)
    render_world({"target-train": 4, "target-tune": 1, "target-test": 1}, workers=1)
    for stage in ("precompute", "fuse"):
        goodsam(stage)
    goodsam("labels", "--split", "target-train", "--out", "labels")
    for image_id in CORRECTED:
        truth = sample_paths(Path("demo_world"), "target-train", int(image_id[-5:])).labels
        shutil.copy(truth, Path("labels") / label_file(image_id))
    compared = json.loads(goodsam("corrections", "--labels", "labels", "--split", "target-train", "--json")[0])
    assert set(compared["changed"]) == set(CORRECTED)
    assert compared["unchanged"] == 2

    trained, said = goodsam("train", *SHORT, "--set", "train.corrections=labels", "--json")
    assert f"2 of 4 panoramas: corrected labels from {tmp_path / 'labels'}" in said
    figures = json.loads(trained)
    assert figures["corrected"] == 2
    checkpoint = Path(figures["checkpoint"])

    manifest = load_manifest(Path("demo_world/manifest.yaml"))
    config = load_config(Path(__file__).parents[2] / "configs" / "demo.yaml", ["train.corrections=labels"])
    corrections = read_corrections(manifest, config)
    plain = CacheReader(manifest, config, ("target-train",))
    sources = json.loads((checkpoint.parent / "label_sources.json").read_text())
    assert {image_id: sources[image_id]["digest"] for image_id in CORRECTED} == corrections.digests
    described = json.loads(load_state_dict(checkpoint)[1]["student"])["label_sources"]
    assert described == {plain.artefact.path: 2, sources[CORRECTED[0]]["source"]: 2}

    reader, space = CorrectedReader(plain.reader, corrections, config.fused_space()), config.fused_space()
    for image_id in plain.ids:
        if image_id not in CORRECTED:
            np.testing.assert_array_equal(reader.fused(image_id).weight, plain.reader.fused(image_id).weight)
            continue
        truth = sample_paths(Path("demo_world"), "target-train", int(image_id[-5:])).labels
        sample, expected = reader.fused(image_id), read_labels(truth, ImagePreprocessing(), space)
        np.testing.assert_array_equal(sample.label, expected)
        np.testing.assert_array_equal(sample.weight, np.where(expected == 255, 0, 255))

    without = json.loads(goodsam("train", *SHORT, "--json")[0])
    assert without["corrected"] == 0
    assert Path(without["checkpoint"]).parent != checkpoint.parent
