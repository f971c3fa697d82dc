"""What a training begins with, and what becomes of an earlier one in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from pipeline.core.errors import UserError
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.models.weights import load_state_dict
from stages.config import load_config
from stages.train.configs import CONFIGS, read_config, student_config
from stages.train.pretrained import checkpoint_classes, resolve_pretrained
from stages.train.run import last_checkpoint
from tests.train.helpers import CLASSES, SPACE, MemoryReader, run

ROOT = CONFIGS.parent
STILL = {"optim_wrapper.optimizer.lr": 0.0, "optim_wrapper.optimizer.weight_decay": 0.0}
CROP = {"train_pipeline": [{"type": "PackMKAInputs"}]}


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in load_state_dict(path)[0].items() if "running" not in k and "num_batches" not in k}


def test_the_demos_student_starts_from_the_weights_that_its_settings_name(tmp_path: Path) -> None:
    train = load_config(ROOT / "configs" / "demo.yaml").train
    assert train.load_from is not None
    begun = run(
        tmp_path / "run",
        1,
        student=train.student,
        load_from=train.load_from,
        tiny=STILL | CROP,
        reader=MemoryReader(supervised=True),
        space=load_label_space("cityscapes19"),
    )
    start = weights_of(ROOT / "demo" / "weights" / "start_goodsam_demo.safetensors")
    for name, value in weights_of(begun).items():
        torch.testing.assert_close(value, start[name].float(), rtol=0, atol=0)


@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "c")])
def test_with_other_classes_the_layer_that_names_them_begins_anew(tmp_path: Path, classes: tuple[str, ...]) -> None:
    first = run(tmp_path / "first", 1)
    space = LabelSpace(name="other", classes=classes, palette=tuple((c, c, c) for c in range(len(classes))))
    reader = three_classes() if len(classes) == 3 else MemoryReader()
    begun = run(tmp_path / "second", 1, load_from=first, overrides=STILL, seed=5, reader=reader, space=space)
    old, new = weights_of(first), weights_of(begun)
    for name, value in new.items():
        if "conv_seg" not in name or classes == CLASSES:
            torch.testing.assert_close(value, old[name], rtol=0, atol=0)
        else:
            assert value.shape[0] == len(classes)


def three_classes() -> MemoryReader:
    reader = MemoryReader(supervised=True)
    reader.labels = {name: label.clip(max=2) for name, label in reader.labels.items()}
    return reader


def test_other_names_for_as_many_classes_begin_anew_too(tmp_path: Path) -> None:
    first = run(tmp_path / "first", 1)
    space = SPACE.model_copy(update={"classes": ("a", "b", "c", "d")})
    begun = run(tmp_path / "second", 1, load_from=first, overrides=STILL, seed=5, space=space)
    old, new = weights_of(first), weights_of(begun)
    assert not torch.equal(new["decode_head.conv_seg.weight"], old["decode_head.conv_seg.weight"])
    torch.testing.assert_close(new["decode_head.fusion_conv.conv.weight"], old["decode_head.fusion_conv.conv.weight"])


def test_a_fresh_run_sets_the_old_checkpoints_aside(tmp_path: Path) -> None:
    """Killed before its end, it must not be taken for the finished run that was there before."""
    old = run(tmp_path, 10)
    kept = old.read_bytes()
    new = run(tmp_path, 4, seed=1)
    assert new.name == "iter_4.pth"
    assert last_checkpoint(tmp_path) == new
    assert (tmp_path / "earlier-1" / old.name).read_bytes() == kept
    assert run(tmp_path, 4, seed=1, resume=True) == new
    run(tmp_path, 2, seed=2)
    assert (tmp_path / "earlier-2" / new.name).is_file()


def test_addresses_of_weights_are_refused_or_not_needed(tmp_path: Path) -> None:
    def config() -> Config:
        cfg = read_config(student_config("goodsam_m"))
        cfg.model.pretrained = "open-mmlab://resnet50_v1c"
        cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint="https://host/mit.pth")
        return cfg

    with pytest.raises(UserError, match=r"model\.\S+: found '\S+://\S+'; expected weights in a local file"):
        resolve_pretrained(config(), None, None, CLASSES)
    cfg = config()
    resolve_pretrained(cfg, None, "mit_b0.pth", CLASSES)
    assert "pretrained" not in cfg.model
    assert "init_cfg" not in cfg.model.backbone
    assert cfg.model.pretrained_backbone == "mit_b0.pth"


@pytest.mark.parametrize("meta", [{}, {"student": "{"}, {"student": "[]"}, {"student": 3}, {"student": "{}"}])
def test_classes_that_cannot_be_read_are_none(meta: dict[str, Any]) -> None:
    assert checkpoint_classes(meta) is None
    assert checkpoint_classes({"student": '{"classes": ["a", "b"]}'}) == ["a", "b"]


def test_processes_that_would_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"found 2 processes of torchrun .* expected --distributed"):
        run(tmp_path)


def test_checkpoints_of_mmsegmentation_say_their_classes_too() -> None:
    for meta in ({"dataset_meta": {"classes": ("road", "car")}}, {"CLASSES": ["road", "car"]}):
        assert checkpoint_classes(meta) == ["road", "car"]
    for nothing in ({}, {"dataset_meta": None}, {"dataset_meta": {}}, {"CLASSES": None}):
        assert checkpoint_classes(nothing) is None
