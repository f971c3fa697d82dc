"""Students of torch: what a checkpoint may hold that training alone needs, and images that they cannot run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import ImagePreprocessing
from pipeline.models.load import load_student
from pipeline.models.student import STUDENT_META
from pipeline.models.torch_student import TorchStudent, load_torch_student, network_config
from tests.models import street
from tests.predict.helpers import untrained

SAMPLER = {"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 1000}
HEAD = {"type": "FCNHead", "in_channels": 64, "channels": 8, "in_index": 2, "num_convs": 1, "num_classes": 19}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> TorchStudent:
    return load_torch_student(untrained(tmp_path_factory.mktemp("cgnet") / "student.pth"), "cpu")


def test_pixel_samplers_are_for_training_only(tmp_path: Path) -> None:
    heads = {"decode_head": {**HEAD, "sampler": SAMPLER}, "auxiliary_head": [{**HEAD, "sampler": SAMPLER}]}
    loaded = load_student(untrained(tmp_path / "student.pth", **heads), "cpu")
    assert loaded(street(64, 128)).shape == (64, 128)
    assert loaded.model.decode_head.sampler is None  # type: ignore[attr-defined]


def test_a_config_keeps_what_training_needs() -> None:
    model = {"type": "MKASegmentor", "decode_head": {**HEAD, "norm_cfg": {"type": "SyncBN"}, "sampler": SAMPLER}}
    assert network_config(model, "x") == {
        "type": "EncoderDecoder",
        "decode_head": {**HEAD, "norm_cfg": {"type": "BN"}},
    }
    assert model["decode_head"]["norm_cfg"] == {"type": "SyncBN"}  # type: ignore[index]
    assert model["decode_head"]["sampler"] == SAMPLER  # type: ignore[index]
    with pytest.raises(UserError, match=r"^x: found type 'os\.mkdir'"):
        network_config({**model, "backbone": {"type": "os.mkdir"}}, "x")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 7 GiB"), "cpu has too little memory"),
        (RuntimeError("Sizes of tensors must match\nat frame 1"), "Sizes of tensors must match"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_what_the_network_cannot_run_on_is_the_failure_of_its_image(
    student: TorchStudent, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, reason: str
) -> None:
    image = street(64, 128)

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(student.model, "extract_feat", fail)
    for run in (student, student.logits, student.probabilities):
        with pytest.raises(ImageError) as raised:
            run(image)
        assert str(raised.value) == f"the student cannot run on an image of 64 x 128 ({reason})"


def test_memory_may_run_out_after_the_network(student: TorchStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    def softmax(_: torch.Tensor, dim: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "softmax", softmax)
    with pytest.raises(ImageError, match="too little memory"):
        student.probabilities(street(64, 128))


def test_circular_padding_is_read_by_its_present_and_its_former_name(tmp_path: Path) -> None:
    def logits(**changes: bool) -> np.ndarray:
        return load_student(untrained(tmp_path / "student.pth", **changes), "cpu").logits(street(64, 128))

    np.testing.assert_array_equal(logits(cyclic=True), logits(circular_padding=True))
    assert not np.allclose(logits(circular_padding=True), logits(circular_padding=False), atol=1e-4)


def test_a_student_carries_its_preprocessing_and_says_what_it_is(tmp_path: Path) -> None:
    preprocessing = ImagePreprocessing(crop_rows=(8, 72), size=(32, 64))
    path = untrained(tmp_path / "student.pth", preprocessing=preprocessing)
    student, image = load_student(path, "cpu"), street(80, 128)
    Image.fromarray(image).save(tmp_path / "image.png")
    prepared = np.array(Image.fromarray(image[8:72]).resize((64, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(student.predict(tmp_path / "image.png"), student(prepared))
    described = "19 classes of cityscapes19, rows 8:72, size 32x64"
    assert repr(student) == f"<TorchStudent: {described}, source {str(path)!r}>"
    assert "car" in student.space.things
    with pytest.raises(ImageError, match="no such file"):
        student.predict(tmp_path / "absent.png")


def test_a_cyclic_student_of_odd_convolutions_is_refused_by_name(tmp_path: Path) -> None:
    head = {**HEAD, "conv_cfg": {"type": "ConvWS"}}
    path = untrained(tmp_path / "odd.pth", decode_head=head, cyclic=True)
    with pytest.raises(UserError, match=r"odd\.pth: .*c\w+ padding: layer decode_head\S*: found a ConvWS2d"):
        load_student(path, "cpu")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks up or connects to an address, or asks mmengine for weights, fails the test."""

    def refused(*arguments: object, **_: object) -> None:
        raise AssertionError(f"fetched {arguments}")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refused)
    for name in ("mmengine.runner.CheckpointLoader.load_checkpoint", "mmengine.load", "numpy.load", "torch.hub.load"):
        monkeypatch.setattr(name, refused)


ADDRESS = "http://localhost:9/weights.pth"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("address", [ADDRESS, "torchvision://resnet50", "open-mmlab://resnet50", "/tmp/planted.pth"])
@pytest.mark.parametrize("place", ["backbone", "decode_head", "model"])
def test_weights_that_a_checkpoint_names_are_not_fetched(tmp_path: Path, address: str, place: str) -> None:
    path = untrained(tmp_path / "student.pth")
    named = {
        "init_cfg": {"type": "Pretrained", "checkpoint": address, "prefix": "backbone."},
        "pretrained": address,
        "load_from": {"path": address, "classifier": True},
    }
    rewrite(path, lambda model: (model if place == "model" else model[place]).update(named))
    student = load_student(path, "cpu")
    assert student(street(64, 128)).shape == (64, 128)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [ADDRESS, "/tmp/weights.pkl", "weights.npy"])
def test_class_weights_that_a_checkpoint_names_are_not_read(tmp_path: Path, name: str) -> None:
    """mmsegmentation's losses read them from a file or an address, and unpickle them."""
    path = untrained(tmp_path / "student.pth")
    loss = {"type": "CrossEntropyLoss", "class_weight": name}
    rewrite(path, lambda model: model["decode_head"].update(loss_decode=loss))
    assert load_student(path, "cpu")(street(64, 128)).shape == (64, 128)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "torchvision://resnet50"}, "found 'torchvision://resnet50' in its model"),
        ({"path": "../planted"}, "found '../planted' in its model"),
        ({"num_convs": 2**21}, "found 2097152 in its model; expected numbers up to"),
        ({"num_convs": 2**20}, "far larger than the weights in the file"),
        ({"channels": 2**19}, "far larger than the weights in the file"),
    ],
)
def test_what_is_no_network_of_the_size_of_its_weights_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = untrained(tmp_path / "student.pth", decode_head=HEAD)
    rewrite(path, lambda model: model["decode_head"].update(change))
    with pytest.raises(UserError, match=message) as error:
        load_student(path, "cpu")
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '"x"', "{}", "1" * 5000, '{"model": NaN}'], ids=range(6))
def test_descriptions_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": {STUDENT_META: text}}, tmp_path / "student.pth")
    with pytest.raises(UserError, match=r"student\.pth: not a student of this project"):
        load_student(tmp_path / "student.pth", "cpu")


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    """Changes the model that a checkpoint describes, its weights stay."""
    content = torch.load(path, weights_only=True)
    described = json.loads(content["meta"][STUDENT_META])
    change(described["model"])
    content["meta"][STUDENT_META] = json.dumps(described)
    torch.save(content, path)
