"""The benchmarks of training and deployment, in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import deploy, loader, student
from benchmarks.rows import Rows
from benchmarks.student import half_turn_agreement, rows
from benchmarks.training import TERMS, Bench
from pipeline.core.errors import UserError
from pipeline.data.manifests import load_manifest


def test_rows_switch_the_terms_of_the_loss() -> None:
    made = {row.name: row for row in rows("best")}
    assert made["student mka"].terms == TERMS
    for term in TERMS:
        assert set(made[f"student mka without {term}"].terms) == set(TERMS) - {term}
    keys = [row.key() for row in made.values()]
    assert len(set(keys)) == len(keys)
    assert {"student_source_only", "student_ta_labels", "student_mka", "student_ground_truth"} <= set(keys)
    assert all(key.isidentifier() for key in keys)


def test_finished_rows_are_not_measured_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "rows.json", []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"miou": 12.34567}

    assert Rows(path).get({"row": "a", "seed": 0}, measure)["miou"] == 12.3457
    assert Rows(path).get({"row": "a", "seed": 0}, measure)["miou"] == 12.3457
    assert len(calls) == 1
    Rows(path).get({"row": "a", "seed": 1}, measure)
    assert len(calls) == 2
    assert {entry["seed"] for entry in json.loads(path.read_text()).values()} == {0, 1}


def test_half_turn_agreement_detects_a_student_that_depends_on_the_column() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 128, 3), dtype=np.uint8)

    def by_colour(picture: np.ndarray) -> np.ndarray:
        return (picture[..., 0] > 128).astype(np.uint8)

    def with_edge(picture: np.ndarray) -> np.ndarray:
        labels = by_colour(picture)
        labels[:, 0] = 7
        return labels

    assert half_turn_agreement(by_colour, image) == (100.0, 100.0)  # type: ignore[arg-type]
    everywhere, seam = half_turn_agreement(with_edge, image)  # type: ignore[arg-type]
    assert everywhere == pytest.approx(100 * 126 / 128)
    assert seam == pytest.approx(100 * 6 / 8)


def test_ground_truth_is_for_its_own_row_alone(tmp_path: Path) -> None:
    bench = Bench(images=2, tests=1, photos=1, work=tmp_path)
    for name in ("images/target-train/target-train-0000{}.png", "images/target-test/target-test-0000{}.png"):
        for k in range(2):
            (tmp_path / "world" / name.format(k)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "world" / name.format(k)).write_bytes(b"")
    labels = tmp_path / "world" / "labels" / "target-test" / "target-test-00000_labelTrainIds.png"
    labels.parent.mkdir(parents=True)
    labels.write_bytes(b"")
    manifest = bench.manifest()
    assert [record.label_path is None for record in manifest.images] == [True, True, False]
    assert load_manifest(manifest.path).images == manifest.images
    with pytest.raises(UserError, match="labels_withheld"):
        bench.manifest(("target-train",), truth=True)


@pytest.mark.slow
def test_deploy_in_small() -> None:
    figures = deploy.run("cgnet", size=(64, 128), repeats=1)
    assert figures["argmax_match"] >= 0.999
    assert figures["max_difference"] < 1e-3
    assert {"torch_ms", "onnxruntime_ms"} <= set(figures)
    assert figures["million_parameters"] == pytest.approx(0.5, abs=0.1)


def test_students_are_timed_in_turns() -> None:
    calls: list[str] = []
    shapes = set()

    def student(name: str) -> Any:
        def predict(image: np.ndarray) -> None:
            calls.append(name)
            shapes.add(image.shape)

        return predict

    seconds = deploy.time_students({name: student(name) for name in "ab"}, (4, 8), repeats=3)
    assert set(seconds) == {"a", "b"}
    assert calls == ["a", "b"] * 4, "three turns, after one that is not counted"
    assert shapes == {(4, 8, 3)}


@pytest.fixture(scope="module")
def small_bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.slow
def test_loader_in_small(small_bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "Bench", lambda **sizes: Bench(**sizes, work=small_bench))
    figures = loader.run(images=1, steps=2, batch=1)
    assert (figures["images"], figures["batch"], figures["generator"]) == (1, 1, "felzenszwalb")
    assert figures["online_ratio"] > 1, "the first two stages take time"


@pytest.mark.slow
def test_student_in_small(small_bench: Path) -> None:
    sizes: dict[str, Any] = {"images": 1, "tests": 1, "iterations": 1, "seeds": 1, "photos": 2, "adapt_iterations": 1}
    chosen, stored = ("source only", "ta labels", "adapted once", "ground truth"), small_bench / "rows.json"
    figures = student.run(**sizes, only=chosen, work=small_bench, stored=stored)
    for key in ("ta_itself", "student_source_only", "student_ta_labels", "student_ground_truth"):
        assert 0 <= figures[key] <= 100
        assert key == "ta_itself" or 0 <= figures[f"{key}_seam_cyclic"] <= 100
    before = stored.stat().st_mtime_ns
    elsewhere = small_bench / "elsewhere"
    assert student.run(**sizes, only=chosen, work=elsewhere, stored=stored) == figures
    assert not list(elsewhere.iterdir()), "nothing is rendered or fused for finished rows"
    assert stored.stat().st_mtime_ns == before, "every row was finished"


@pytest.mark.slow
def test_another_student_trains_on_the_same_crops(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"images": 1, "tests": 1, "iterations": 1, "seeds": 1, "photos": 2}
    stored = tmp_path / "rows.json"
    figures = student.run(**sizes, only=("ta labels",), work=tmp_path, student="goodsam_m", stored=stored)
    assert figures["student"] == "goodsam_m"
    (config,) = (tmp_path / "runs").glob("*/*.py")
    assert "crop_size" in config.read_text(), "unlike in the config of goodsam_m"
    (row,) = [entry for entry in json.loads(stored.read_text()).values() if "seed" in entry]
    assert "load_from" not in row["train"], "the demo student's initial weights would not fit"
