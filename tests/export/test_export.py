"""The exported graph is the model; what is not is refused; and it runs without torch."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace
from pipeline.models.load import load_student
from pipeline.models.normalization import Normalization
from pipeline.models.onnx_student import OnnxStudent
from stages.export import stage
from stages.export.stage import export_student, make_test_images, parse_size
from stages.predict.stage import predict
from tests.models import street
from tests.predict.helpers import untrained
from tests.train.helpers import CLASSES, PALETTE, TINY_STUDENT

ROOT = Path(__file__).resolve().parents[2]
SPACE = LabelSpace(name="street", classes=CLASSES, palette=PALETTE, things=("person",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cgnet") / "student.pth"
    return untrained(path, space=SPACE, preprocessing=ImagePreprocessing(crop_rows=(4, 68)), circular_padding=True)


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    """Exported once for any size."""
    result = export_student(checkpoint, checkpoint.parent / "student.onnx")
    assert result.max_difference < 1e-3
    assert result.argmax_match > 0.999
    assert result.megabytes == pytest.approx(result.path.stat().st_size / 1e6)
    return result.path


@pytest.mark.parametrize("size", [(64, 128), (64, 256), (48, 96), (50, 104), (45, 77)])
def test_any_size_gives_what_torch_gives(checkpoint: Path, exported: Path, size: tuple[int, int]) -> None:
    with_torch, with_onnx = load_student(checkpoint, "cpu"), load_student(exported, "cpu")
    image = street(64, 256)[: size[0], : size[1]]
    np.testing.assert_allclose(with_onnx.logits(image), with_torch.logits(image), atol=1e-3)
    np.testing.assert_allclose(with_onnx.probabilities(image), with_torch.probabilities(image), atol=1e-3)
    labels = with_onnx(image)
    assert (labels.dtype, labels.shape) == (np.uint8, size)
    assert (labels == with_torch(image)).mean() >= 0.999


def test_the_json_says_what_the_graph_does_not(checkpoint: Path, exported: Path) -> None:
    described = json.loads(exported.with_suffix(".json").read_text())
    assert described["classes"] == list(CLASSES)
    assert described["palette"] == [list(colour) for colour in PALETTE]
    assert described["normalisation"] == {
        "channels": "RGB",
        "mean": pytest.approx([123.675, 116.28, 103.53], rel=1e-6),
        "std": pytest.approx([58.395, 57.12, 57.375], rel=1e-6),
    }
    assert described["preparation"] == {"crop_rows": [4, 68]}
    assert described["size"] is None
    assert len(described["checkpoint_sha256"]) == 64
    assert described["things"] == ["person"]
    student = load_student(exported)
    assert student.preprocessing == load_student(checkpoint, "cpu").preprocessing
    assert student.space == load_student(checkpoint, "cpu").space == SPACE
    assert repr(student) == f"<OnnxStudent: 4 classes of street, rows 4:68, any size, source {str(exported)!r}>"


def test_an_older_json_has_no_things(exported: Path, tmp_path: Path) -> None:
    assert load_student(copy(exported, tmp_path / "older", things=None)).space.things == ()


def test_an_exported_student_needs_five_packages(exported: Path, tmp_path: Path) -> None:
    """No package of `install_requires` can be imported but numpy, Pillow, pydantic and PyYAML; onnxruntime besides."""
    Image.fromarray(street(80, 128)).save(tmp_path / "image.png")
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = re.findall(r"^[\w-]+", setup["options"]["install_requires"], re.MULTILINE)
    names = {"scikit-image": "skimage", "segment-anything": "segment_anything"}
    blocked = {names.get(p, p.removeprefix("onedl-")) for p in packages} - {"numpy", "pillow", "pydantic", "pyyaml"}
    assert {"torch", "mmengine", "mmcv", "zarr", "dask", "distributed", "scipy"} <= blocked
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked | {'mmseg', 'onnx'})}))\n"
        "from pipeline.models.load import load_student\n"
        f"print(load_student({str(exported)!r}).predict({str(tmp_path / 'image.png')!r}).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(64, 128)", done.stderr


def test_predict_runs_a_checkpoint_or_its_onnx_alike(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    Image.fromarray(street(80, 128)).save(tmp_path / "images" / "deep" / "a.png")
    images = {"deep/a": tmp_path / "images" / "deep" / "a.png"}
    for name, student in (("torch", checkpoint), ("onnx", exported)):
        done, failures = predict(images, student, tmp_path / name, probabilities=True, device="cpu")
        assert (done, failures) == (["deep/a"], {})
    labels, probabilities = {}, {}
    for name in ("torch", "onnx"):
        labels[name] = np.asarray(Image.open(tmp_path / name / "labels" / "deep" / "a.png"))
        probabilities[name] = np.load(tmp_path / name / "probabilities" / "deep" / "a.npy")
        assert Image.open(tmp_path / name / "overlays" / "deep" / "a.png").width == 128
    assert labels["torch"].shape == (64, 128), "cropped as in training"
    assert (labels["torch"] == labels["onnx"]).mean() >= 0.999
    assert probabilities["onnx"].dtype == np.float16
    np.testing.assert_allclose(probabilities["onnx"].astype(float).sum(axis=0), 1, atol=4e-3)
    np.testing.assert_allclose(probabilities["onnx"], probabilities["torch"], atol=2e-3)
    np.testing.assert_array_equal(np.unique(labels["onnx"]), np.unique(labels["torch"]))
    assert not list((tmp_path / "onnx").rglob("*.tmp"))


def test_a_graph_of_one_size_takes_that_size_alone(checkpoint: Path, tmp_path: Path) -> None:
    path = export_student(checkpoint, tmp_path / "fixed.onnx", (64, 128)).path
    student = load_student(path)
    assert student(street(64, 128)).shape == (64, 128)
    with pytest.raises(ImageError, match=r"takes images of 64 x 128, found \(64, 256\)"):
        student(street(64, 256))


def test_prediction_brings_images_to_the_size_of_the_graph(checkpoint: Path, tmp_path: Path) -> None:
    path = export_student(checkpoint, tmp_path / "fixed.onnx", (32, 64)).path
    Image.fromarray(street(96, 128)).save(tmp_path / "a.png")  # of which the checkpoint keeps 64 rows
    done, failures = predict({"a": tmp_path / "a.png"}, path, tmp_path / "out")
    assert (done, failures) == (["a"], {})
    assert Image.open(tmp_path / "out" / "labels" / "a.png").size == (64, 32)


def test_a_graph_that_is_not_the_model_is_refused(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter gives the graph of other weights: the comparison must find out."""
    other = untrained(tmp_path / "other" / "student.pth", space=SPACE, circular_padding=True, seed=1)
    monkeypatch.setattr(torch.onnx, "export", lambda network, inputs, path, **_: shutil.copy(exported, path))
    assert export_student(checkpoint, tmp_path / "same.onnx").argmax_match > 0.999
    with pytest.raises(UserError, match=r"is not the model: logits differ by up to .*expected less than 0.001"):
        export_student(other, tmp_path / "wrong" / "wrong.onnx")
    assert not list((tmp_path / "wrong").iterdir()), "nothing is left"


def test_bad_files_are_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        load_student(tmp_path / "absent.onnx")
    lonely = tmp_path / "lonely.onnx"
    lonely.with_suffix(".json").write_text(exported.with_suffix(".json").read_text())
    with pytest.raises(UserError, match=r"lonely\.onnx: no such file"):
        load_student(lonely)
    lonely.write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"lonely\.onnx: is not the graph that lonely\.json describes"):
        load_student(lonely)
    described = json.loads(exported.with_suffix(".json").read_text())
    del described["graph_sha256"]
    lonely.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"lonely\.onnx: is not a readable ONNX file"):
        load_student(lonely)
    for text, message in (("{", "cannot be read as JSON"), ("[]", "found a list"), ("{}", "classes")):
        lonely.with_suffix(".json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_student(lonely)
    for text in ("400", "400x", "0x8", "8x8x8"):
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            parse_size(text)
    with pytest.raises(UserError, match=r"ends in \.onnx"):
        export_student(exported, tmp_path / "student.pt")
    with pytest.raises(UserError, match="expected cpu"):
        OnnxStudent(exported, "cuda")
    for device in ("cuda:x", "cuda:", "tpu", "cpu:0", ""):
        with pytest.raises(UserError, match=f"found '{device}', expected auto, cpu or cuda"):
            OnnxStudent(exported, device)


def copy(exported: Path, folder: Path, **changes: Any) -> Path:
    """The exported graph with a JSON in which some keys are others; None removes one."""
    folder.mkdir(exist_ok=True)
    path = Path(shutil.copy(exported, folder))
    described = json.loads(exported.with_suffix(".json").read_text()) | changes
    described = {key: value for key, value in described.items() if key not in changes or value is not None}
    path.with_suffix(".json").write_text(json.dumps(described))
    return path


def test_graph_and_json_belong_together(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(exported.read_bytes()).hexdigest()
    assert json.loads(exported.with_suffix(".json").read_text())["graph_sha256"] == digest
    image = street(64, 128)
    older = load_student(copy(exported, tmp_path / "older", graph_sha256=None))
    np.testing.assert_array_equal(older(image), load_student(exported)(image))
    with pytest.raises(UserError, match=r"not the graph that student\.json describes \(found sha256 .* expected 000"):
        load_student(copy(exported, tmp_path / "other", graph_sha256="0" * 64))
    fewer = {"classes": list(CLASSES[:-1]), "palette": [list(colour) for colour in PALETTE[:-1]], "things": []}
    few = copy(exported, tmp_path / "few", **fewer)
    with pytest.raises(UserError, match=r"student\.onnx: gives 4 channels, but its JSON names 3 classes"):
        load_student(few)
    with pytest.raises(UserError, match=r"student\.json: 1 problem\n.*things names no class"):
        load_student(copy(exported, tmp_path / "things", things=["dog"]))
    student = load_student(exported)
    monkeypatch.setattr(student, "session", OtherSession(np.zeros((1, 5, 64, 128), np.float32)))
    with pytest.raises(UserError, match="gives 5 channels"):
        student(image)


class OtherSession:
    """A session that gives an array, or raises an error."""

    def __init__(self, result: np.ndarray | Exception) -> None:
        self.result = result

    def run(self, *_: object) -> list[np.ndarray]:
        if isinstance(self.result, Exception):
            raise self.result
        return [self.result]


def test_what_onnxruntime_cannot_run_on_is_the_failure_of_its_image(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    student = load_student(exported)
    monkeypatch.setattr(student, "session", OtherSession(RuntimeException("Failed to allocate memory\nfor 7 GiB")))
    for run_student in (student, student.logits, student.probabilities):
        with pytest.raises(ImageError, match=r"cannot run on an image of 64 x 128 \(Failed to allocate memory\)$"):
            run_student(street(64, 128))


@pytest.mark.parametrize("moved", [0, 1])
def test_an_export_that_is_killed_leaves_no_pair_that_looks_whole(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """An older pair without a digest is replaced, and the process ends before the first or the second move."""
    import onnx

    model = onnx.load(exported)
    model.doc_string = "other bytes"
    onnx.save(model, tmp_path / "new.onnx")
    path = copy(exported, tmp_path / "out", graph_sha256=None)
    before = path.with_suffix(".json").read_bytes()
    new = tmp_path / "new.onnx"
    monkeypatch.setattr(torch.onnx, "export", lambda network, inputs, path, **_: shutil.copy(new, path))
    moves: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        if len(moves) == moved:
            raise KeyboardInterrupt
        moves.append(target)
        shutil.move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.core.atomic_files.os.replace", replace)
        with pytest.raises(KeyboardInterrupt):
            export_student(checkpoint, path)
    assert path.read_bytes() == exported.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["student.json", "student.onnx"]
    if moved:
        with pytest.raises(UserError, match=r"is not the graph that .* export the student again"):
            load_student(path)
    else:
        assert path.with_suffix(".json").read_bytes() == before
    export_student(checkpoint, path)
    assert load_student(path)(street(64, 128)).shape == (64, 128)
    assert path.read_bytes() == (tmp_path / "new.onnx").read_bytes()


class Halves(torch.nn.Module):
    """Takes sizes that are multiples of 8 alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        halved = torch.nn.functional.avg_pool2d(images, 8)
        return images[:, :2] + torch.nn.functional.interpolate(halved, scale_factor=8.0)[:, :2]


def test_sizes_that_torch_cannot_run_either_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    network, normalization = Halves(), Normalization()
    session = SimpleNamespace(run=lambda _, inputs: [network(torch.from_numpy(inputs["image"])).numpy()])
    monkeypatch.setattr(stage, "open_session", lambda *_: session)
    batches = make_test_images(None)
    assert batches[-1].shape == (1, 45, 77, 3), "an odd size"
    assert stage.compare(network, Path("x.onnx"), batches, normalization) == (0, 1)
    with pytest.raises(RuntimeError, match="size of tensor"):
        stage.compare(network, Path("x.onnx"), batches[-1:], normalization)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tiny"), [("goodsam_m", TINY_STUDENT), ("goodsam_demo", {})])
def test_students_of_any_size(tmp_path: Path, name: str, tiny: dict[str, Any]) -> None:
    """Odd sizes too: attention on reduced maps, and feature pyramids whose levels are no halves of each other."""
    checkpoint = untrained(tmp_path / "student.pth", name, tiny)
    exported = export_student(checkpoint, tmp_path / "student.onnx")
    assert exported.max_difference < 1e-4
    with_onnx, with_torch = load_student(exported.path), load_student(checkpoint, "cpu")
    for height, width in ((64, 256), (45, 77), (97, 131), (33, 47)):
        image = street(112, 256)[:height, :width]
        difference = with_onnx.logits(image) - with_torch.logits(image)
        assert np.abs(difference).max() < 1e-3, (height, width)
