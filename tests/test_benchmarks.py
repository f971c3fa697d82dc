"""The benchmarks run at small sizes, and end with one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks import (
    cache,
    check,
    fuse,
    generator,
    pseudo_labels,
    real_teacher,
    rerun,
    roll,
    scale,
    seam,
    sensitivity,
    sphere,
    workers,
)
from benchmarks.__main__ import BENCHMARKS, run_benchmarks
from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.data.manifests import load_manifest
from stages.config import load_config
from tests.caches import finished

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_rerun_benchmark_returns_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, floors = iter([9.0, 4.0, 6.0]), iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(rerun, "build", lambda folder, images: [])
    monkeypatch.setattr(rerun, "rerun", lambda arguments, images: (next(seconds), 0.0))
    monkeypatch.setattr(rerun, "floor", lambda folder: next(floors))
    assert rerun.run(images=20) == {"seconds_20_images": 6.0, "rerun_over_floor": 3.0, "repeats": 3}


def test_the_synthetic_cache_is_complete(tmp_path: Path) -> None:
    arguments = rerun.build(tmp_path, 3)
    manifest, config = load_manifest(tmp_path / "manifest.yaml"), load_config(tmp_path / "config.yaml")
    artefacts = Cache(config.cache, manifest.name).artefacts()
    assert [a.kind for a in artefacts] == ["fused", "masks", "sam", "teacher"]
    for artefact in artefacts:
        markers = finished(artefact)
        assert set(markers) == {"00000", "00001", "00002"}
        for marker in markers.values():
            assert marker.sha256
            assert (marker.source is None) == (artefact.kind == "fused")
            artefact.verify(marker)
    for stage in ("precompute", "fuse"):  # raise if an image is not finished
        rerun.rerun(arguments, 3, stage)
    assert rerun.floor(tmp_path) > 0.01, "seconds; Python starts and imports libraries"


def test_a_rerun_that_computes_images_is_an_error(tmp_path: Path) -> None:
    arguments = rerun.build(tmp_path, 2)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | {"sam": {"generator": {"kind": "nonsense"}}}))
    with pytest.raises(RuntimeError, match="found no 2 finished images, exit 2"):
        rerun.rerun(arguments, 2)


def test_merged_masks_of_a_rolled_panorama_are_the_rolled_ones() -> None:
    figures = seam.run(images=1, generators=("felzenszwalb",))["felzenszwalb"]
    assert figures["rolled_masks_matched"] >= 0.99
    assert figures["objects"]["middle"] > 20
    assert all(0 <= share <= 1 for share in figures["one_mask"].values())


@pytest.mark.slow
def test_labels_of_a_rolled_panorama_are_the_rolled_ones() -> None:
    figures = roll.run(images=1, rolls=(384, 37), rules=("ta", "best"))
    assert figures["by_the_distance_of_windows"] == 100
    assert 50 < figures["other_rolls_best"] < 100


@pytest.mark.slow
def test_two_workers_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[int, dict[str, Any]]] = []
    precompute = workers.precompute

    def record(manifest: Path, count: int) -> dict[str, Any]:
        runs.append((count, precompute(manifest, count)))
        return runs[-1][1]

    monkeypatch.setattr(workers, "precompute", record)
    figures = workers.run(images=2, rounds=1)
    (first, one), (second, two) = runs
    assert (first, second) == (1, 2)
    for kind in ("sam", "teacher"):
        assert one[kind]["computed"] == two[kind]["computed"] == 2
        reading, _, writing = one[kind]["seconds_each"]
        assert figures[f"host_seconds_{kind}"] == round(reading + writing, 4)
        assert figures[f"two_workers_{kind}"] == round(two[kind]["images_per_s"] / one[kind]["images_per_s"], 3)


@pytest.mark.slow
def test_the_ta_on_full_spheres_is_scored_by_latitude() -> None:
    figures = sphere.run(images=1)
    for name in sphere.VIEWS:
        assert len(figures["miou"][name]) == len(sphere.BANDS)
        assert figures["accuracy"][name][0] > 50  # near the horizon the TA knows its way


def test_subnormal_weights_change_no_logit(tmp_path: Path) -> None:
    figures = real_teacher.run(size=(64, 64), repeats=1, checkpoint=tmp_path / "none.pth")
    assert not figures["real_checkpoint"]
    assert figures["subnormal_weights"] > 100_000
    assert figures["max_logit_difference"] == 0


@pytest.mark.slow
def test_the_generators_are_compared() -> None:
    small = generator.Case("200 x 2048", 200, 1, (("points_per_side", 3),))
    figures = generator.run((small,), vit=None)
    assert figures["parity"] == figures["masks_same_to_the_pixel"] == 1.0
    assert figures["speedup_outside_networks"] > 1
    assert 0 < figures["peak_memory_ratio"] < 2  # nine points are too few to tell the generators apart


def test_the_sizes_of_the_cache_add_up() -> None:
    figures = cache.run(1, (cache.SIZES[0],), points_per_side=2)
    assert 0.1 < figures["mib_per_image"] < 6
    assert figures["kib_teacher logits"] > 100
    assert figures["decode_over_floor"] > 0.5
    parts = sum(value for name, value in figures.items() if name.startswith(("kib_sam", "kib_masks", "kib_teacher")))
    fused = sum(value for name, value in figures.items() if name.startswith("kib_fused (paper)"))
    assert figures["mib_per_image_paper"] * 1024 == pytest.approx(parts + fused, rel=0.01)


def test_an_unknown_benchmark_is_an_error() -> None:
    with pytest.raises(UserError, match=r"--only: found 'speed'; expected one of .*rerun"):
        run_benchmarks(["speed"])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "speed"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --only: found 'speed'")


def test_the_figures_of_the_named_benchmarks_are_returned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rerun, "run", lambda: {"seconds_2000_images": 1.5})
    figures = run_benchmarks(["rerun"])
    assert figures["seconds_2000_images"] == 1.5
    assert json.loads(json.dumps(figures)) == figures
    assert capsys.readouterr().out.startswith("rerun: ")
    modules = (REPOSITORY / "benchmarks").glob("*.py")
    assert set(BENCHMARKS) == {path.stem for path in modules if "\ndef run(" in path.read_text()}, "each can be named"


def test_fuse_measures_the_vote_and_the_whole_of_dar() -> None:
    figures = fuse.run(cases=((200, 1024, 40),), small=4, repeats=5)
    assert 0 < figures["vote_speedup"] == min(figures["vote_speedup_ssa"], figures["vote_speedup_sepl"])
    assert figures["dar_over_floor"] == max(figures["dar_over_floor_paper"], figures["dar_over_floor_best"]) > 1
    assert figures["seconds_2000_small_extrapolated"] > 0


def test_pseudo_labels_are_measured_once_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = pseudo_labels.compare(1, 1, ["oracle"], "target-tune", work=tmp_path)
    keys = {"ta_whole", "ta", "ssa", "sepl", "sgml", "dar", "goodsam_pp", "oracle_masks", "boundary_f_ta"}
    assert keys <= set(figures)
    # true masks are better than none, for every rule that uses them
    assert min(figures[rule] for rule in ("ssa", "sepl", "dar", "goodsam_pp", "paper")) > figures["ta"] + 5
    assert figures["boundary_f_dar"] > figures["boundary_f_ta"] + 5
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == len(pseudo_labels.TA_ROWS) + len(pseudo_labels.RULES)
    capsys.readouterr()
    assert pseudo_labels.compare(1, 1, ["oracle"], "target-tune", work=tmp_path) == figures
    assert "evaluate" not in capsys.readouterr().err
    with pytest.raises(UserError, match="found \\['sam'\\]; expected some of felzenszwalb"):
        pseudo_labels.compare(1, 1, ["sam"], work=tmp_path)


@pytest.mark.parametrize("sources", [["felzenszwalb"], ["oracle"], ["felzenszwalb", "nano_sam", "oracle"]])
def test_the_line_of_pseudo_labels_has_every_rule_whatever_the_masks(sources: list[str]) -> None:
    names = [(None, row) for row in pseudo_labels.TA_ROWS] + [
        (s, rule) for s in sources for rule in pseudo_labels.RULES
    ]
    means = {name: dict.fromkeys(pseudo_labels.COLUMNS, float(k)) for k, name in enumerate(names)}
    said = pseudo_labels.figures(means, sources)
    chosen = "nano_sam" if "nano_sam" in sources else sources[0]  # the real masks on which best is best
    rows = {"ta_whole": (None, "ta_whole"), "ta": (None, "ta"), "dar": (chosen, "best")}
    rows |= {"goodsam_pp": (chosen, "goodsampp")} | {rule: (chosen, rule) for rule in ("ssa", "sepl", "sgml")}
    for key, name in rows.items():
        assert said[key] == names.index(name)
    assert said["oracle_masks"] == (names.index(("oracle", "best")) if "oracle" in sources else None)
    assert (said["boundary_f_ta"], said["boundary_f_dar"]) == (said["ta"], said["dar"])
    assert said["mask_source"] == chosen


@pytest.mark.slow
def test_sensitivity_is_measured_once_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"rules": ["paper: theta"], "windows": [(256, 128)], "work": tmp_path}
    figures = sensitivity.compare(1, "target-tune", **options)
    coverage = [row["coverage"] for row in figures["paper: theta"]]
    assert coverage == sorted(coverage, reverse=True)
    assert len({row["mIoU"] for row in figures["paper: theta"]}) == 1, "theta gates the weight alone"
    windows = {(row["width / stride"], row["rule"]): row for row in figures["width / stride"]}
    assert windows["256 / 128", "paper"]["mIoU"] == figures["paper: theta"][0]["mIoU"]
    assert windows["256 / 128", "ta"]["l_cc"] > windows["whole", "ta"]["l_cc"] == 0
    capsys.readouterr()
    assert sensitivity.compare(1, "target-tune", **options) == figures
    assert "images/s" not in capsys.readouterr().out


def test_every_flipped_bit_of_a_small_cache_is_detected() -> None:
    small = cache.Size("100 x 512", "half", 256)
    figures = scale.one_panorama(small, flips=40, points_per_side=2)
    assert (figures["silent_wrong_reads"], figures["flips_tracebacks"]) == (0, 0)
    assert figures["inodes_per_image"] == 8
    assert figures["flips_reported"] + figures["flips_without_effect"] == figures["flips"] == 40
    assert figures["mib_per_image"] <= figures["mib_per_image_format_1"]


def test_reruns_of_two_sizes_are_extrapolated_to_a_million() -> None:
    figures = scale.reruns(40, 20)
    assert figures["rerun_mib_1000000_extrapolated"] >= figures["rerun_mib_40"] > 20


@pytest.mark.slow
def test_rate_and_memory_over_many_images_are_measured() -> None:
    figures = scale.steady(120)
    assert all(figures[f"steady_rate_ratio_{kind}"] > 0 for kind in ("sam", "masks", "teacher", "fused"))


BOOK_LINES = {
    "fuse": {
        "time": {"better": "lower", "measured": [2.0, 2.2], "meaning": "x"},
        "speedup": {"better": "higher", "measured": [30.0], "meaning": "x"},
        "share": {"better": "higher", "measured": [0.99], "margin": 0.005, "meaning": "x"},
    }
}


@pytest.mark.parametrize(
    ("figures", "worse"),
    [
        ({"time": 2.1, "speedup": 31, "share": 0.99}, []),
        ({"time": 2.5, "speedup": 26, "share": 0.986}, []),
        ({"time": 2.6, "speedup": 25, "share": 0.98}, ["fuse.time", "fuse.speedup", "fuse.share"]),
    ],
)
def test_a_figure_beyond_noise_is_a_regression(tmp_path: Path, figures: dict[str, float], worse: list[str]) -> None:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(BOOK_LINES))
    rows, regressions = check.compare("fuse", figures, path)
    assert len(rows) == 3
    assert [sentence.partition(":")[0] for sentence in regressions] == worse
    check.record("fuse", figures, path)
    assert check.compare("fuse", figures, path)[1] == []
    with pytest.raises(UserError, match=r"fuse\.time: is missing"):
        check.compare("fuse", {}, path)


def test_every_figure_of_the_book_is_measured_and_documented() -> None:
    assert set(check.checked_benchmarks()) <= set(BENCHMARKS)
    page = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    for figure in check.read_book():
        assert figure.better in ("lower", "higher")
        assert len(figure.measured) >= 2, figure.name
        assert f"`{figure.name}`" in page, figure.name


def test_a_regression_fails_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    import benchmarks.__main__ as command_line

    path = tmp_path / "book.json"
    path.write_text(json.dumps({"rerun": {"rerun_over_floor": {"better": "lower", "measured": [2], "meaning": "x"}}}))
    monkeypatch.setattr(check, "BOOK", path)
    app = typer.Typer()
    app.command()(command_line.command)
    for value, status in ((2.1, 0), (9.9, 1)):
        monkeypatch.setattr(rerun, "run", lambda value=value: {"rerun_over_floor": value})
        result = CliRunner().invoke(app, ["--only", "rerun", "--check"])
        assert result.exit_code == status, result.output
        assert ("worse: rerun.rerun_over_floor" in result.output) == (status == 1)
