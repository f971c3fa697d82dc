"""Training through mmengine's Runner, resuming, and the student that comes out."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.models.load import load_student
from pipeline.models.weights import load_state_dict
from stages.train.configs import CONFIGS
from stages.train.run import last_checkpoint
from tests.train.helpers import CLASSES, PALETTE, SPACE, TINY_CGNET, TINY_STUDENT, MemoryReader, run, same_weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained"))


def accuracy(checkpoint: Path) -> float:
    student, reader = load_student(checkpoint, "cpu"), MemoryReader()
    return float(np.mean([student(reader.image(i)) == reader.labels[i] for i in reader.ids]))


def channels(student: Any, image: torch.Tensor) -> list[float]:
    """The pixel `(1, 3, 1, 1)` as the network takes it."""
    return student.model.data_preprocessor({"inputs": image})["inputs"][0, :, 0, 0].tolist()


def test_writes_checkpoint_and_the_ids_it_used(trained: Path) -> None:
    assert trained.name == "iter_10.pth"
    assert last_checkpoint(trained.parent) == trained
    assert json.loads((trained.parent / "train_images.json").read_text()) == list(MemoryReader().ids)


def test_same_seed_same_student(trained: Path, tmp_path: Path) -> None:
    assert same_weights(trained, run(tmp_path / "again"))
    assert not same_weights(trained, run(tmp_path / "other", seed=1))


def test_student_from_the_checkpoint_alone(trained: Path) -> None:
    student, image = load_student(trained, "cpu"), MemoryReader().image("pano/0.png")
    assert student.space.classes == CLASSES
    assert student.space.palette == PALETTE
    assert student.space.ignore_index == 255
    label, probs = student(image), student.probabilities(image)
    assert (label.dtype, label.shape) == (np.uint8, (32, 64))
    assert (probs.dtype, probs.shape) == (np.float32, (4, 32, 64))
    np.testing.assert_allclose(probs.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probs.argmax(0), label)
    np.testing.assert_array_equal(student(image[:, ::-1][:, ::-1]), label)
    assert student(np.zeros((45, 77, 3), np.uint8)).shape == (45, 77)
    with pytest.raises(ValueError, match="uint8"):
        student(image.astype(np.float32))


def test_resume_goes_on_and_load_from_starts_anew(trained: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "moved"
    work_dir.mkdir()
    (work_dir / trained.name).write_bytes(trained.read_bytes())
    (work_dir / "last_checkpoint").write_text(f"/somewhere/else/{trained.name}")
    (work_dir / "iter_12.pth").write_bytes(trained.read_bytes()[:-100])
    assert last_checkpoint(work_dir) == work_dir / trained.name, "a half-written checkpoint does not count"
    resumed = run(work_dir, 15, resume=True)
    assert resumed.name == "iter_15.pth"
    assert load_state_dict(resumed)[1]["iter"] == 15
    assert run(work_dir, 15, resume=True) == resumed, "nothing is left to do"
    fresh = run(tmp_path / "fresh", 5, load_from=trained)
    assert load_state_dict(fresh)[1]["iter"] == 5
    nothing_to_resume = run(tmp_path / "first", 5, resume=True)
    assert nothing_to_resume.name == "iter_5.pth"


def test_backbones_start_from_weights_of_their_own_or_of_a_whole_segmentor(trained: Path, tmp_path: Path) -> None:
    state = load_state_dict(trained)[0]
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    torch.save({"state_dict": {**own, "head.weight": torch.zeros(2, 2)}}, tmp_path / "own.pth")
    torch.save({"state_dict": state}, tmp_path / "whole.pth")
    still = {"optim_wrapper.optimizer.lr": 0.0, "optim_wrapper.optimizer.weight_decay": 0.0}
    for name in ("own", "whole"):
        begun = run(tmp_path / name, 1, pretrained_backbone=tmp_path / f"{name}.pth", tiny={**TINY_STUDENT, **still})
        weights = load_state_dict(begun)[0]
        for key, value in own.items():
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(weights[f"backbone.{key}"], value, rtol=0, atol=0)


def test_supervised_training_runs_too(tmp_path: Path) -> None:
    assert run(tmp_path, 5, reader=MemoryReader(supervised=True)).is_file()


def test_a_plain_mmseg_config_becomes_a_student(tmp_path: Path) -> None:
    base = CONFIGS / "_base_" / "segformer_mit_b0.py"
    head = "dict(norm_cfg=dict(type='SyncBN'))"
    config = tmp_path / "plain.py"
    config.write_text(
        f"_base_ = [{str(base)!r}]\n"
        f"model = dict(data_preprocessor=dict(bgr_to_rgb=True), decode_head={head})\n"
        "train_pipeline = [dict(type='LoadImageFromFile')]\n"
        "val_dataloader = dict(dataset=dict(type='CityscapesDataset', data_root='nowhere'))\n"
    )
    checkpoint = run(tmp_path / "run", 5, student=str(config))
    assert json.loads(load_state_dict(checkpoint)[1]["student"])["model"]["type"] == "MKASegmentor"
    student = load_student(checkpoint, "cpu")
    image = torch.tensor([123.675, 116.28, 103.53 + 57.375]).view(1, 3, 1, 1)  # in RGB, as the mean and std
    torch.testing.assert_close(channels(student, image), [0.0, 0.0, 1.0])
    assert student.model.num_classes == len(CLASSES)


def test_a_student_of_bgr_images_gets_them_in_training_and_use(tmp_path: Path) -> None:
    base = CONFIGS / "_base_" / "segformer_mit_b0.py"
    config = tmp_path / "bgr.py"
    preprocessor = "dict(bgr_to_rgb=False, mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])"
    config.write_text(f"_base_ = [{str(base)!r}]\nmodel = dict(data_preprocessor={preprocessor})\n")
    student = load_student(run(tmp_path / "run", 1, student=str(config)), "cpu")
    assert channels(student, torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)) == [29.0, 18.0, 7.0]


def test_a_config_of_mmsegmentation_with_auxiliary_heads(tmp_path: Path) -> None:
    config = Path(mmseg.__file__).parent / ".mim/configs/fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
    if not config.is_file():
        pytest.skip(f"this mmsegmentation has no {config}")
    hooks = {k: v for k, v in TINY_STUDENT.items() if k.startswith("default_hooks")}
    settings: dict[str, Any] = {"student": str(config), "reader": MemoryReader(height=64, width=128)}
    checkpoint = run(tmp_path, 2, tiny=hooks, **settings)
    student = load_student(checkpoint, "cpu")
    assert len(student.model.auxiliary_head) == 2
    assert student(MemoryReader(height=64, width=128).image("pano/0.png")).shape == (64, 128)


def test_crops_and_worker_processes(tmp_path: Path) -> None:
    pipeline = [
        dict(type="CyclicShift"),
        dict(type="RandomScaleCrop", crop_size=(32, 48), scale_range=(0.5, 2.0)),
        dict(type="MirrorPanorama"),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackMKAInputs"),
    ]
    reader = MemoryReader(height=64, width=128)
    assert run(tmp_path, 5, reader=reader, workers=1, overrides={"train_pipeline": pipeline}).is_file()


def test_bad_settings_are_refused_before_training(trained: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.safetensors"  # names of another library, which mmengine would pass over in silence
    save_file({"patch_embed1.proj.weight": torch.zeros(8, 3, 7, 7)}, odd)
    for settings, message in (
        ({"student": "goodsam_x"}, "found 'goodsam_x'; expected a file or one of .*goodsam_m, goodsam_s, goodsam_t"),
        ({"schedule": "schedule_x"}, "found 'schedule_x'; expected a file or one of .*schedule_gpu"),
        ({"device": "tpu"}, "expected auto, cpu or cuda"),
        ({"distributed": True}, "found no LOCAL_RANK"),
        ({"reader": MemoryReader(count=0)}, "no images"),
        ({"load_from": tmp_path / "absent.pth"}, "no such checkpoint"),
        ({"load_from": trained, "overrides": {"model.decode_head.channels": 8}}, "fit the student.*load_from=null"),
        ({"pretrained_backbone": odd}, r"does not fit the student's backbone; .* missing"),
        ({"overrides": {"model.mka.wole": 1.0}}, "wole: unknown key"),
        ({"overrides": {"model.backbone.type": "Nothing"}}, "the student goodsam_m: found type 'Nothing'"),
        ({"overrides": {"model.backbone.depth": 18}}, "goodsam_m: the training cannot be set up"),
        ({"overrides": {"model.type": "SegTTAModel"}}, "expected EncoderDecoder or MKASegmentor"),
        (
            {"overrides": {"optimizer.lr": 0.1}},
            "the student's config has no optimizer; .*optim_wrapper",
        ),
        ({"overrides": {"train_dataloader.batch_size": 7}}, "the student's config has no train_dataloader"),
        ({"overrides": {"default_scope": "mmcls"}}, "default_scope: is set by the training"),
        ({"overrides": {"model.test_cfg.mode": "slide"}}, "found 'slide', but the training itself makes it 'whole'"),
        ({"overrides": {"model": {"decode_head": {"num_classes": 3}}}}, "found .*3.* but the training itself makes it"),
        ({"overrides": {"model.data_preprocessor": None}}, "model.data_preprocessor: is missing"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path / "refused", **settings)
    assert not list(tmp_path.rglob("*.pth"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / trained.name).write_bytes(trained.read_bytes())
    with pytest.raises(UserError, match="was trained for the classes"):
        run(tmp_path / "other", 15, resume=True, space=SPACE.model_copy(update={"classes": ("a", "b", "c", "d")}))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


def test_checkpoints_that_carry_code_are_refused_by_every_entry(trained: Path, tmp_path: Path) -> None:
    target, work_dir = tmp_path / "owned", tmp_path / "run"
    content = torch.load(trained, weights_only=False)
    work_dir.mkdir()
    bad = work_dir / "iter_10.pth"
    torch.save({**content, "extra": Bomb(target)}, bad)
    (work_dir / "last_checkpoint").write_text(str(bad))
    for settings in ({"resume": True}, {"load_from": bad}, {"pretrained_backbone": bad}):
        with pytest.raises(UserError, match="asks to run code"):
            run(work_dir, **settings)
    with pytest.raises(UserError, match="asks to run code"):
        load_student(bad, "cpu")
    assert not target.exists()


@pytest.mark.parametrize(
    "model",
    [
        {"type": "os.mkdir", "path": "TARGET"},
        {"type": "subprocess.Popen", "args": ["mkdir", "TARGET"]},
        {"type": "EncoderDecoder", "backbone": {"type": "os.mkdir", "path": "TARGET"}, "decode_head": {}},
        {"type": "os.mkdir", "_scope_": "mmseg", "path": "TARGET"},
        {"type": "antigravity"},
        {"type": "VPD", "diffusion_cfg": {"config": "TARGET"}},
        {"type": ["EncoderDecoder"]},
    ],
)
def test_student_builds_nothing_but_networks(trained: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    target = tmp_path / "owned"
    content = torch.load(trained, weights_only=False)
    described = json.loads(content["meta"]["student"])
    text = json.dumps({**described, "model": model}).replace("TARGET", str(target))
    content["meta"]["student"] = text
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth: found"):
        load_student(tmp_path / "bad.pth", "cpu")
    assert not target.exists()


def test_student_never_runs_the_config_text(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    content = torch.load(trained, weights_only=False)
    for key in ("cfg", "config"):
        content["meta"][key] = f"import os\nos.mkdir({str(target)!r})\n"
    torch.save(content, tmp_path / "text.pth")
    assert load_student(tmp_path / "text.pth", "cpu").space.classes == CLASSES
    assert not target.exists()


def test_not_a_student(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match="not a student of this project"):
        load_student(tmp_path / "plain.pth")


@pytest.mark.slow
def test_a_student_learns_its_labels(tmp_path: Path) -> None:
    assert accuracy(run(tmp_path, 400, overrides={"default_hooks.checkpoint.interval": 400})) > 0.85


def test_options_reach_the_student(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, 2, class_balance=0.5, circular_padding=True)
    described = json.loads(load_state_dict(checkpoint)[1]["student"])["model"]
    assert described["circular_padding"] is True
    assert len(described["class_weights"]) == len(CLASSES)
    assert len(set(described["class_weights"])) > 1
    student, image = load_student(checkpoint, "cpu"), MemoryReader().image("pano/0.png")
    plain = run(tmp_path / "plain", 2)
    agreement = [
        (np.roll(s(np.roll(image, 32, axis=1)), 32, axis=1) == s(image)).mean()
        for s in (student, load_student(plain, "cpu"))
    ]
    assert agreement[0] > agreement[1]


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, 4, tensorboard=True, overrides={"default_hooks.logger.interval": 2})
    [events] = [path.parent for path in tmp_path.rglob("events.out.tfevents.*")]
    found = event_accumulator.EventAccumulator(str(events))
    found.Reload()
    assert {"loss", "decode.loss_whole", "decode.pseudo_label_acc"} <= set(found.Tags()["scalars"])
    assert [scalar.step for scalar in found.Scalars("loss")] == [2, 4]
    pictures = found.Images("image, pseudo-label, student")
    assert [picture.step for picture in pictures] == [1, 2, 3, 4]
    assert (pictures[0].width, pictures[0].height) == (64, 3 * 32)


class Steps(SilentProgress):
    """Notes what is reported."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, str]] = []
        self.figures: list[str] = []

    def start(self, description: str, total: int, unit: str = "image") -> None:
        self.started.append((description, total, unit))

    def advance(self, failed: bool = False, figures: str = "") -> None:
        self.figures.append(figures)


def test_every_step_is_reported_with_the_loss(trained: Path, tmp_path: Path) -> None:
    steps = Steps()
    run(tmp_path / "short", 3, progress=steps)
    assert steps.started == [("train", 3, "step")]
    assert len(steps.figures) == 3
    assert re.fullmatch(r"loss \d+\.\d\d", steps.figures[-1])
    (tmp_path / "resumed").mkdir()
    shutil.copy(trained, tmp_path / "resumed")
    rest = Steps()
    run(tmp_path / "resumed", 12, resume=True, progress=rest)
    assert rest.started == [("train", 2, "step")], "only the steps that are left"


def test_cgnet_by_its_config_alone(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, 2, student="cgnet", tiny=TINY_CGNET)
    assert load_student(checkpoint, "cpu")(MemoryReader().image("pano/0.png")).shape == (32, 64)
