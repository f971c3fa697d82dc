"""Students of torch: what a checkpoint may hold that training alone needs, and images that they cannot run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import ImageError, UserError
from pipeline.student import load_student
from pipeline.torch_student import TorchStudent, load_torch_student, network_config
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

    monkeypatch.setattr(student, "_logits", fail)
    for run in (student, student.logits, student.probabilities):
        with pytest.raises(ImageError) as raised:
            run(image)
        assert str(raised.value) == f"the student cannot run on an image of 64 x 128 ({reason})"


def test_memory_may_run_out_after_the_network(student: TorchStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    class Logits:
        def softmax(self, dim: int) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(student, "_logits", lambda _: Logits())
    with pytest.raises(ImageError, match="too little memory"):
        student.probabilities(street(64, 128))


def test_a_cyclic_student_of_odd_convolutions_is_refused_by_name(tmp_path: Path) -> None:
    head = {**HEAD, "conv_cfg": {"type": "ConvWS"}}
    path = untrained(tmp_path / "odd.pth", decode_head=head, cyclic=True)
    with pytest.raises(UserError, match=r"odd\.pth: cyclic padding: layer decode_head\S*: found a ConvWS2d"):
        load_student(path, "cpu")
