"""The configs build, have the sizes that they claim, and the real teacher fits its config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.models.weights import load_into
from stages.train.configs import (
    CONFIGS,
    build_config,
    fit_model,
    fit_schedule,
    read_config,
    requested_config,
    student_config,
)
from stages.train.run import TrainingRun
from stages.train.segmentor import MKASegmentor, MKATerms
from stages.train.settings import TrainSettings
from tests.train.helpers import SPACE, TINY_STUDENT, MemoryReader

REAL = Path(__file__).parents[3] / "shared" / "real"


def build(name: str) -> Any:
    init_default_scope("mmseg")
    return MODELS.build(Config.fromfile(CONFIGS / name).model)


def millions(model: torch.nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize(("name", "size"), [("goodsam_m", 3.7), ("goodsam_t", 13.7), ("goodsam_s", 24.7)])
def test_students(name: str, size: float) -> None:
    model = build(f"students/{name}.py")
    assert isinstance(model, MKASegmentor)
    assert model.terms == MKATerms()
    assert millions(model) == pytest.approx(size, abs=0.06)
    assert model.num_classes == 19


@pytest.mark.parametrize(
    ("name", "rate", "steps"),
    [("schedule_gpu", 6e-5, 20000), ("schedule_gpus", 1.2e-4, 10000), ("schedule_demo", 1e-3, 300)],
)
def test_schedules_replace_a_students_own(name: str, rate: float, steps: int) -> None:
    cfg = requested_config(TrainSettings(student="goodsam_m", schedule=name))
    assert cfg.optim_wrapper.optimizer.lr == rate
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end) == (0, decay.begin)
    assert decay.end == cfg.train_cfg.max_iters == steps
    fitted = fit_schedule(cfg, 100)
    assert fitted.train_cfg.max_iters == fitted.param_scheduler[-1].end == 100
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == steps, "the argument is not changed"


def test_overrides_and_schedules_that_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.overrides: model\.backbone\.embed_dims\.x: cannot become 1"):
        requested_config(TrainSettings(overrides={"model.backbone.embed_dims.x": 1}))
    bare = tmp_path / "bare.py"
    bare.write_text("train_cfg = dict(max_iters=10)\n")
    with pytest.raises(UserError, match=r"bare\.py: has no optim_wrapper"):
        requested_config(TrainSettings(schedule=str(bare)))
    cfg = read_config(student_config("goodsam_m"))
    cfg.pop("param_scheduler")
    with pytest.raises(UserError, match="has no param_scheduler"):
        fit_schedule(cfg, 10)
    cfg.param_scheduler = [dict(type="PolyLR", end=10)]
    with pytest.raises(UserError, match="PolyLR has no end or counts epochs"):
        fit_schedule(cfg, 10)


def test_a_model_is_fitted_without_changing_its_config() -> None:
    norm = dict(type="SyncBN", requires_grad=True)
    head = dict(type="FCNHead", num_classes=19, out_channels=19, norm_cfg=norm)
    model = dict(type="EncoderDecoder", decode_head=head, auxiliary_head=[head], data_preprocessor=dict(mean=[0.0] * 3))
    before = copy.deepcopy(model)
    fitted = fit_model(model, SPACE)
    assert model == before
    assert fitted["type"] == "MKASegmentor"
    for head in (fitted["decode_head"], *fitted["auxiliary_head"]):
        assert (head["num_classes"], head["ignore_index"], head["norm_cfg"]["type"]) == (4, 255, "BN")
        assert "out_channels" not in head
    assert fitted["data_preprocessor"]["rgb_to_bgr"]
    assert fit_model(model, SPACE, sync_bn=True)["decode_head"]["norm_cfg"]["type"] == "SyncBN"


def test_equal_runs_have_equal_configs(tmp_path: Path) -> None:
    def config(**changes: Any) -> dict[str, Any]:
        settings = TrainSettings(overrides=TINY_STUDENT, class_balance=0.5, ema=0.1, iterations=50, **changes)
        run = TrainingRun(settings, SPACE, MemoryReader(), tmp_path / "run", device="cpu")
        return build_config(run).to_dict() | {"experiment_name": None}

    assert config() == config()
    assert not (tmp_path / "run").exists(), "nothing is written"
    assert config(seed=1) != config()
    selecting = config(select="pseudo_label_miou")
    assert selecting["default_hooks"]["checkpoint"]["interval"] == 10
    assert selecting["model"]["class_weights"] != config()["model"]["class_weights"], "of the panoramas to train on"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda p: p.stem)
def test_no_config_asks_for_the_network(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "SyncBN" not in text


def test_b5_teacher_builds_and_predicts() -> None:
    model = build("teachers/segformer_b5_cityscapes.py").eval()
    assert millions(model) == pytest.approx(82.0, abs=0.1)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 128)).shape == (1, 19, 16, 32)


def test_real_cgnet_fits_strictly_and_segments_a_real_panorama() -> None:
    weights, images = REAL / "teacher" / "cgnet_cityscapes_19.pth", sorted(REAL.glob("panoramas/*.jpeg"))
    if not weights.is_file() or not images:
        pytest.skip(f"no real teacher or panoramas in {REAL}")
    model = build("teachers/cgnet_cityscapes.py").eval()
    load_into(model, weights, "the CGNet teacher")
    image = np.asarray(Image.open(images[0]).convert("RGB"))[312:712, :1024]
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    with torch.no_grad():
        logits = model(model.data_preprocessor({"inputs": [pixels]}, False)["inputs"])
    assert logits.shape == (1, 19, 50, 128)
    share = np.bincount(logits.argmax(1).numpy().ravel(), minlength=19) / (50 * 128)
    road, building = share[0], share[2]
    assert road > 0.1
    assert building > 0.2
    assert logits.softmax(1).amax(1).mean() > 0.6
