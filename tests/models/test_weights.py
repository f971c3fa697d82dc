"""Checkpoints are data: what carries code is refused on every path, and our own still load."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file

from pipeline.core.errors import UserError
from pipeline.models.load import load_student
from pipeline.models.weights import (
    load_backbone,
    load_into,
    load_pretrained,
    load_state_dict,
    register_safe_mmengine_loader,
    save_checkpoint,
    zero_subnormals,
)
from stages.precompute.generators.sam import Sam
from stages.precompute.teachers.huggingface import HuggingFace
from stages.precompute.teachers.mmseg import Mmseg
from stages.precompute.teachers.module import Module
from tests.predict.helpers import untrained

TEACHERS = Path(__file__).resolve().parents[2] / "mmseg_configs" / "teachers"


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


class ByGetattr:
    """Reaches `os` through an attribute of an allow-listed class, as mmengine's own allow-list permits."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return getattr, (HistoryBuffer, "__setstate__")


@MODELS.register_module()
class TinyCheckpointModel(BaseModel):
    def __init__(self, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss": self.layer(torch.stack(inputs)).square().mean()}


@DATASETS.register_module()
class TinyCheckpointData(torch.utils.data.Dataset):
    metainfo = {"classes": ("a", "b")}  # noqa: RUF012

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.tensor([1.0, float(index)])}


def runner(work_dir: Path, iters: int, **kwargs: Any) -> Runner:
    cfg = Config(
        dict(
            model=dict(type="TinyCheckpointModel", init_cfg=kwargs.pop("init_cfg", None)),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type="InfiniteSampler", shuffle=True),
                dataset=dict(type="TinyCheckpointData"),
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01)),
            param_scheduler=[dict(type="PolyLR", begin=0, end=8, by_epoch=False)],
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2),
                logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=False),
            ),
            log_processor=dict(by_epoch=False),
            log_level="ERROR",
            randomness=dict(seed=1),
            experiment_name=uuid.uuid4().hex,  # mmengine keeps one logger and message hub per name
            **kwargs,
        )
    )
    return Runner.from_cfg(cfg)


@pytest.fixture
def own_checkpoint(tmp_path: Path) -> Path:
    runner(tmp_path / "own", 4).train()
    return tmp_path / "own" / "iter_4.pth"


@pytest.fixture(autouse=True)
def safe_loader() -> None:
    register_safe_mmengine_loader()


def malicious(path: Path, target: Path) -> Path:
    torch.save(
        {"meta": {"epoch": 0, "iter": 0}, "state_dict": {"layer.bias": torch.zeros(1)}, "x": Bomb(target)},
        path,
    )
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_load_state_dict_refuses_code(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "owned"
    torch.save({"state_dict": Bomb(target)}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"bad\.pth.*asks to run code \(posix\.mkdir\).*expected a \.pth"):
        load_state_dict(tmp_path / "bad.pth")
    assert not target.exists()


def test_the_bomb_is_real(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()


def test_plain_pickle_and_getattr_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(UserError, match=r"plain\.pth"):
        load_state_dict(tmp_path / "plain.pth")
    assert not target.exists()
    torch.save({"state_dict": {"w": ByGetattr()}}, tmp_path / "getattr.pth")
    with pytest.raises(UserError, match="found 'w' of type NoneType"):
        load_state_dict(tmp_path / "getattr.pth")


def test_environment_cannot_switch_safety_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError, match="asks to run code"):
        load_state_dict(malicious(tmp_path / "bad.pth", tmp_path / "owned"))
    assert not (tmp_path / "owned").exists()


def test_runner_resume_and_load_from_refuse_code(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    bad = malicious(tmp_path / "bad.pth", target)
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    (work_dir / "last_checkpoint").write_text(str(bad))
    with pytest.raises(UserError, match="asks to run code"):
        runner(work_dir, 2, resume=True).train()
    with pytest.raises(UserError, match="asks to run code"):
        runner(tmp_path / "other", 2, load_from=str(bad)).train()
    assert not target.exists()


def test_pretrained_init_cfg_refuses_code(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    bad = malicious(tmp_path / "bad.pth", target)
    for prefix in (None, "backbone"):
        model = TinyCheckpointModel(init_cfg=dict(type="Pretrained", checkpoint=str(bad), prefix=prefix))
        with pytest.raises(UserError, match="asks to run code"):
            model.init_weights()
    assert not target.exists()


def test_resume_does_not_execute_a_config_text(tmp_path: Path, own_checkpoint: Path) -> None:
    """`Runner.resume` passes meta['config'] to `Config.fromstring`, which runs it as Python."""
    target = tmp_path / "owned"
    content = torch.load(own_checkpoint, weights_only=False)
    content["meta"]["config"] = f"import os\nos.mkdir({str(target)!r})\n"
    bad = tmp_path / "config_text.pth"
    torch.save(content, bad)
    runner(tmp_path / "again", 6, resume=True, load_from=str(bad)).train()
    assert not target.exists()


@pytest.mark.parametrize("scheme", ["https://x.org/a.pth", "http://x/a.pth", "s3://b/a.pth", "torchvision://resnet50",
                                    "open-mmlab://a", "mmcls://a", "pavi://a", "ftp://h/a.pth"])  # fmt: skip
def test_remote_schemes_are_refused(scheme: str) -> None:
    with pytest.raises(UserError, match="remote checkpoints are not loaded"):
        CheckpointLoader.load_checkpoint(scheme)


def test_our_own_checkpoint_resumes(tmp_path: Path, own_checkpoint: Path) -> None:
    straight = runner(tmp_path / "straight", 8)
    straight.train()
    resumed = runner(tmp_path / "resumed", 8, resume=True, load_from=str(own_checkpoint))
    resumed.train()
    assert resumed.iter == 8
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    history = resumed.message_hub.get_scalar("train/loss")
    assert isinstance(history, HistoryBuffer)
    assert len(history.data[0]) == 8
    np.testing.assert_array_equal(history.data[0], straight.message_hub.get_scalar("train/loss").data[0])


def test_numpy_values_round_trip(tmp_path: Path) -> None:
    values = {
        "f": np.arange(6, dtype=np.float64).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "scalar": np.float32(1.5),
        "flag": np.array([True, False]),
        "empty": np.zeros((0, 3), np.uint8),
        "text": np.array(["road", "Mauer ä"]),
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": values}, tmp_path / "np.pth")
    _, meta = load_state_dict(tmp_path / "np.pth")
    for key, value in values.items():
        np.testing.assert_array_equal(meta[key], value)
        assert meta[key].dtype == value.dtype
    torch.save({"state_dict": {}, "meta": np.array([{}], dtype=object)}, tmp_path / "objects.pth")
    with pytest.raises(UserError, match="dtype 'O8'"):
        load_state_dict(tmp_path / "objects.pth")


LAYOUTS = (
    lambda s: s,
    lambda s: {"model": s},
    lambda s: {"state_dict": s, "meta": {"a": 1}},
    lambda s: {f"module.{k}": v for k, v in s.items()},
)


@pytest.mark.parametrize("wrap", LAYOUTS)
def test_layouts_are_unwrapped(tmp_path: Path, wrap: Any) -> None:
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save(wrap(state), tmp_path / "a.pt")
    found, _ = load_state_dict(tmp_path / "a.pt")
    assert found.keys() == state.keys()
    torch.testing.assert_close(found["weight"], state["weight"])


def test_safetensors(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"classes": "[]"})
    other = torch.nn.Linear(2, 3)
    assert load_into(other, tmp_path / "a.safetensors", "a layer") == {"classes": "[]"}
    torch.testing.assert_close(other.weight, model.weight)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match="not a readable safetensors"):
        load_state_dict(tmp_path / "cut.safetensors")


def test_clear_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint file"):
        load_state_dict(tmp_path / "absent.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "noise.pth").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("empty.pth", "noise.pth"):
        with pytest.raises(UserError, match=f"{name}: not a readable checkpoint"):
            load_state_dict(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="found a list at the top level"):
        load_state_dict(tmp_path / "list.pth")
    torch.save({"state_dict": {"w": 3}}, tmp_path / "number.pth")
    with pytest.raises(UserError, match="found 'w' of type int"):
        load_state_dict(tmp_path / "number.pth")


def test_load_into_names_what_does_not_fit(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        load_into(torch.nn.Linear(2, 3), tmp_path / "a.pth", "the test layer")
    for part in (
        "the test layer",
        "1 missing (bias)",
        "1 unexpected (extra)",
        "weight (4, 2) instead of (3, 2)",
    ):
        assert part in str(caught.value)


def test_import_is_cheap() -> None:
    code = "import sys, pipeline.models.weights; print(*(m in sys.modules for m in ('torch', 'mmengine', 'numpy')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False", "False"]


SUBNORMAL = torch.finfo(torch.float32).tiny / 4


def is_subnormal(values: torch.Tensor) -> torch.Tensor:
    return (values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)


def with_subnormals(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, the first of each tensor subnormal."""
    state = {name: value.clone() for name, value in state.items()}
    for value in state.values():
        if value.is_floating_point() and value.numel():
            value.view(-1)[0] = SUBNORMAL
    return state


def subnormal_layer() -> torch.nn.Module:
    """A TA of the user's own code, which loads its weights itself."""
    layer = torch.nn.Conv2d(3, 19, 4, stride=4)
    layer.load_state_dict(with_subnormals(layer.state_dict()))
    return layer


def subnormal_sam() -> torch.nn.Module:
    from tests.models import tiny_sam

    model = tiny_sam()
    model.load_state_dict(with_subnormals(model.state_dict()))
    return model


def test_only_subnormal_weights_become_zero() -> None:
    values = [SUBNORMAL, -SUBNORMAL, 2 * SUBNORMAL, 4 * SUBNORMAL, -4 * SUBNORMAL, 1e-30, 0.0, -0.0, 1.5]
    values += [float("nan"), float("inf")]
    expected = torch.tensor([0.0, -0.0, 0.0, *values[3:]])
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.tensor(values))
    layer.register_buffer("statistics", torch.tensor(values[:9]).to(torch.bfloat16))
    layer.register_buffer("float16", torch.tensor([1e-6], dtype=torch.float16))
    layer.register_buffer("count", torch.tensor([3]))
    assert zero_subnormals(layer) is layer
    assert torch.equal(layer.weight.view(torch.int32), expected.view(torch.int32)), "to the bit"
    assert torch.equal(layer.statistics.view(torch.int16), expected[:9].to(torch.bfloat16).view(torch.int16))
    assert layer.float16[0] > 0, "subnormal numbers of float16 are large enough to count"
    assert layer.count[0] == 3


@pytest.mark.parametrize("load", [load_into, load_pretrained, load_backbone])
def test_loading_zeroes_subnormal_weights(tmp_path: Path, load: Any) -> None:
    torch.save(with_subnormals(torch.nn.Linear(2, 3).state_dict()), tmp_path / "a.pth")
    layer = torch.nn.Linear(2, 3)
    load(layer, tmp_path / "a.pth", "a layer")
    assert layer.weight[0, 0] == layer.bias[0] == 0


def test_every_network_is_without_subnormal_weights(tmp_path: Path) -> None:
    """TAs of every kind, SAM and students, with weights from files and from the user's own code."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    student = untrained(tmp_path / "student.pth")
    content = torch.load(student, weights_only=True)
    content["state_dict"] = with_subnormals(content["state_dict"])
    torch.save(content, student)
    small = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    segformer = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, decoder_hidden_size=16, **small))
    segformer.config.save_pretrained(tmp_path)
    torch.save(with_subnormals(segformer.state_dict()), tmp_path / "segformer.pth")
    settings = TEACHERS / "cgnet_cityscapes.py"
    mmseg = Mmseg(config=settings, random_weights=True).network("cpu").model
    torch.save(with_subnormals(mmseg.state_dict()), tmp_path / "cgnet.pth")
    networks = {
        "student": load_student(student, "cpu").model,  # type: ignore[attr-defined]
        "mmseg": Mmseg(config=settings, checkpoint=tmp_path / "cgnet.pth").network("cpu").model,
        "hf": HuggingFace(config=tmp_path / "config.json", checkpoint=tmp_path / "segformer.pth").network("cpu").model,
        "module": Module(builder="tests.models.test_weights:subnormal_layer").network("cpu").model,
        "sam": Sam(builder="tests.models.test_weights:subnormal_sam", random_weights=True).load_model("cpu"),
    }
    for name, network in networks.items():
        count = sum(int(is_subnormal(v).sum()) for v in network.state_dict().values() if v.is_floating_point())
        assert count == 0, name
        assert any(bool((v.view(-1)[:1] == 0).all()) for v in network.parameters()), name


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """The cache's keys hold the hash of the file."""
    for name in ("a", "b"):
        save_checkpoint({"state_dict": {"weight": torch.arange(3.0)}}, tmp_path / f"{name}.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
