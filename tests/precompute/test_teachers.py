"""TAs: logits are those of the model itself, in the right channel order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import ImageError, UserError
from pipeline.models.weights import load_into
from stages.precompute.teachers.huggingface import HuggingFace
from stages.precompute.teachers.mmseg import Mmseg
from stages.precompute.teachers.module import Module
from tests.conftest import REAL
from tests.models import street, tiny_teacher

BASE = Path(__file__).resolve().parents[2] / "mmseg_configs" / "_base_" / "segformer_mit_b0.py"
CONFIG = """
_base_ = [{base!r}]
model = dict(
    data_preprocessor=dict(bgr_to_rgb={rgb}, mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0]),
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16, norm_cfg=dict(type='SyncBN')))
"""
VIEWS = np.stack([street(64, 128, seed=k) for k in range(5)])


@pytest.fixture(params=[True, False], ids=["rgb", "bgr"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(base=str(BASE), rgb=request.param))
    return path


def test_an_mmseg_model_sees_what_mmseg_would_show_it(config: Path, tmp_path: Path) -> None:
    """mmseg reads files as BGR and runs its own preprocessor: the logits must be the same from our RGB views."""
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(Config.fromfile(config).model)).eval()
    weights = tmp_path / "tiny.pth"
    torch.save({"state_dict": model.state_dict()}, weights)
    logits = Mmseg(config=config, checkpoint=weights, batch_size=2).build("cpu")(VIEWS)
    bgr = [torch.from_numpy(np.ascontiguousarray(view[..., ::-1].transpose(2, 0, 1))) for view in VIEWS]
    with torch.no_grad():
        inputs = model.data_preprocessor({"inputs": bgr}, False)["inputs"]
        expected = model(inputs, mode="tensor")
    assert logits.shape == (5, 19, 16, 32)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


def test_a_module_gets_normalised_rgb() -> None:
    settings = Module(builder="tests.models:tiny_teacher", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), batch_size=2)
    logits = settings.build("cpu")(VIEWS)
    pixels = (torch.from_numpy(VIEWS).float() - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([4.0, 5.0, 6.0])
    with torch.no_grad():
        expected = tiny_teacher()(pixels.permute(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


def test_a_hugging_face_segformer_gives_its_own_logits(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    settings = SegformerConfig(
        num_labels=19, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(settings).eval()
    settings.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    teacher = HuggingFace(config=tmp_path / "config.json", checkpoint=tmp_path / "model.safetensors", batch_size=2)
    logits = teacher.build("cpu")(VIEWS)
    pixels = (torch.from_numpy(VIEWS).float() - torch.tensor(teacher.mean)) / torch.tensor(teacher.std)
    with torch.no_grad():
        expected = model(pixel_values=pixels.permute(0, 3, 1, 2)).logits
    assert logits.shape == (5, 19, 16, 32)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    with pytest.raises(UserError, match=r"checkpoint: is missing"):
        HuggingFace(config=tmp_path / "config.json").build("cpu")
    with pytest.raises(UserError, match=r"other\.json is missing"):
        HuggingFace(config=tmp_path / "other.json", random_weights=True).build("cpu")
    (tmp_path / "other.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r"other\.json gives no segmentation model"):
        HuggingFace(config=tmp_path / "other.json", random_weights=True).build("cpu")


def test_flip_averages_with_the_mirrored_view() -> None:
    plain = Module(builder="tests.models:tiny_teacher").build("cpu")
    flipped = Module(builder="tests.models:tiny_teacher", flip=True).build("cpu")
    mirrored = plain(np.ascontiguousarray(VIEWS[:, :, ::-1]))[..., ::-1]
    np.testing.assert_allclose(flipped(VIEWS), (plain(VIEWS) + mirrored) / 2, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_a_scaled_input_keeps_the_size_of_the_logits(scale: float) -> None:
    """A TA that averages cells and mixes them linearly sees the same picture at any scale, away from texture."""
    smooth = np.broadcast_to(np.linspace(40, 200, 128, dtype=np.uint8)[None, None, :, None], (1, 64, 128, 3)).copy()
    plain = Module(builder="tests.models:tiny_teacher").build("cpu")(smooth)
    scaled = Module(builder="tests.models:tiny_teacher", scale=scale).build("cpu")(smooth)
    assert scaled.shape == plain.shape == (1, 19, 16, 32)
    np.testing.assert_allclose(scaled[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2], atol=0.15 * np.abs(plain).max())


def test_batches_change_nothing() -> None:
    one, many = (Module(builder="tests.models:tiny_teacher", batch_size=n).build("cpu")(VIEWS) for n in (1, 5))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_wrong_checkpoints_are_refused(config: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"foreign.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match=r"foreign\.pth"):
        Mmseg(config=config, checkpoint=tmp_path / "foreign.pth").build("cpu")
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        Mmseg(config=config, checkpoint=tmp_path / "nowhere.pth").build("cpu")
    with pytest.raises(UserError, match=r"checkpoint: is missing"):
        Mmseg(config=config).build("cpu")
    with pytest.raises(UserError, match=r"nothing\.py is missing"):
        Mmseg(config=tmp_path / "nothing.py", random_weights=True).build("cpu")


def test_safetensors_weights_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tiny_teacher(seed=3).state_dict(), tmp_path / "w.safetensors")
    model = tiny_teacher()
    load_into(model, tmp_path / "w.safetensors", "a TA")
    assert torch.equal(model.weight, tiny_teacher(seed=3).weight)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real TA is not here ({REAL})")
def test_the_real_ta_knows_a_street() -> None:
    """A full-sphere panorama's band: mostly building, vegetation, road and sky; the other channel order is not."""
    from PIL import Image

    folder = Path(__file__).resolve().parents[2] / "mmseg_configs" / "teachers"
    infer = Mmseg(config=folder / "cgnet_cityscapes.py", checkpoint=REAL / "teacher" / "cgnet_cityscapes_19.pth").build(
        "cpu"
    )
    path = sorted((REAL / "panoramas").glob("*.jpeg"))[1]
    view = np.array(Image.open(path))[312:712, :512]
    logits = infer(view[None])[0]
    assert logits.shape == (19, 50, 64)
    share = np.bincount(logits.argmax(axis=0).ravel(), minlength=19)[[0, 1, 2, 8, 9, 10]].sum() / (50 * 64)
    assert share > 0.7
    swapped = infer(np.ascontiguousarray(view[None, ..., ::-1]))[0]

    def confidence(values: np.ndarray) -> float:
        p = np.exp(values - values.max(axis=0))
        return float((p.max(axis=0) / p.sum(axis=0)).mean())

    assert confidence(logits) > confidence(swapped)


def test_where_memory_runs_out_the_batch_is_halved() -> None:
    whole = Module(builder="tests.models:tiny_teacher", batch_size=8).build("cpu")
    halved = Module(builder="tests.models:hungry_teacher", batch_size=8).build("cpu")
    np.testing.assert_allclose(halved(VIEWS), whole(VIEWS), atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        '{"model_type": "segformer", "hidden_sizes": "x"}',
        '{"model_type": "segformer", "depths": {}}',
        "[]",
        "[" * 100_000,
    ],
    ids=range(4),
)
def test_configs_that_transformers_chokes_on_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json(:| gives no segmentation model)") as error:
        HuggingFace(config=tmp_path / "config.json", random_weights=True).build("cpu")
    assert len(str(error.value)) < 700


def test_a_pretrained_backbone_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **_: object) -> None:
        raise AssertionError(f"fetched {arguments}")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refused)
    (tmp_path / "config.json").write_text(
        '{"model_type": "upernet", "backbone": "some/backbone", "use_pretrained_backbone": true, "hidden_size": 8}'
    )
    with pytest.raises(UserError, match=r"config\.json gives no segmentation model") as error:
        HuggingFace(config=tmp_path / "config.json", random_weights=True).build("cpu")
    assert "fetched" not in str(error.value)


def test_views_that_a_ta_cannot_run_on_are_the_failure_of_their_image() -> None:
    infer = Module(builder="tests.models:tiny_teacher", options={"stride": 32}).build("cpu")
    assert infer(VIEWS).shape == (5, 19, 2, 4)
    with pytest.raises(ImageError, match=r"the TA cannot run on views of 16 x 128 \(.*[Kk]ernel size"):
        infer(VIEWS[:, :16])


def test_weights_that_an_mmseg_config_names_are_not_read(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = config.read_text().replace("model = dict(", "model = dict(pretrained='torchvision://resnet50', ", 1)
    named = "backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='http://localhost:9/x.pth'), "
    config.write_text(text.replace("backbone=dict(", named, 1))

    def refused(*arguments: object, **_: object) -> None:
        raise AssertionError(f"read {arguments}")

    monkeypatch.setattr("mmengine.runner.CheckpointLoader.load_checkpoint", refused)
    assert Mmseg(config=config, random_weights=True).build("cpu")(VIEWS).shape == (5, 19, 16, 32)


@pytest.mark.parametrize("model", ["1", "dict(type='Nothing')", "dict(type='EncoderDecoder')"])
def test_configs_without_a_network_are_refused(tmp_path: Path, model: str) -> None:
    (tmp_path / "odd.py").write_text(f"model = {model}\n")
    with pytest.raises(UserError, match=r"odd\.py(: has no key 'model'| gives no model)"):
        Mmseg(config=tmp_path / "odd.py", random_weights=True).build("cpu")
