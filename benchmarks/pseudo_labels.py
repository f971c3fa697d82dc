"""Quality of the pseudo-labels of every fusion rule on labelled panoramas of the demo world at half size.

The rows share one cache per world: the TA's logits and each source's masks are computed once. Every figure is the mean
over worlds of different seeds; each world is scored with one confusion matrix over its panoramas. `rows.json` stores
finished rows under the keys of their artefacts, so that a stopped run can be continued. Fewer images and seeds:
`python -m benchmarks.pseudo_labels --images 4 --seeds 1`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks import nano_sam, run_alone
from benchmarks.rows import Rows
from demo.domain import Shift
from demo.splits import Split, WorldSettings
from demo.teachers.data import write_manifest
from demo.world import write_world
from pipeline.cache import Cache
from pipeline.cache.freshness import read_source, source_matches
from pipeline.cache.groups import views_to_attributes, write_mask_sets
from pipeline.core.cli import print_table
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, console_progress
from pipeline.core.settings import parse_settings
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.geometry.views import make_views
from stages.config import Config

ROOT = Path(__file__).parent.parent
WORK = ROOT / "work_dirs" / "pseudo_labels"
WEIGHTS = ROOT / "demo" / "weights"
IMAGES, SEEDS = 8, 3
VIEWS: dict[str, Any] = {"width": 256, "stride": 128}

#: Mask sources: settings of the artefacts `sam` and `masks`.
SOURCES: dict[str, dict[str, Any]] = {
    "felzenszwalb": {
        "sam": {"generator": {"kind": "felzenszwalb", "scale": 100, "sigma": 0.5, "min_size": 40}},
        "masks": {"filter": {"min_area": 16}},
    },
    "nano_sam": {"sam": {"generator": nano_sam()["generator"]}, "masks": {"filter": nano_sam()["filter"]}},
    "oracle": {"sam": {"artefact": "oracle"}, "masks": {"filter": {"min_area": 1}}},
}

#: Rows without masks: changes of the settings.
TA_ROWS: dict[str, dict[str, Any]] = {
    "ta_whole": {"teacher": {"views": {"kind": "whole"}}, "fusion": {"rule": "ta"}},
    "ta": {"fusion": {"rule": "ta"}},
    "ta, without confidence": {"fusion": {"rule": "ta", "pooling": {"confidence": 0}}},
    "ta, log pool": {"fusion": {"rule": "ta", "pooling": {"mode": "log"}}},
}

#: Rules that run with every mask source.
RULES = ("boundary", "ssa", "sepl", "sgml", "paper", "goodsampp", "best")


@dataclass(frozen=True)
class World:
    """The labelled panoramas of one seed, and the folder of the cache that all rows share."""

    folder: Path
    manifest: Manifest

    @classmethod
    def make(cls, work: Path, seed: int, shift: Shift, split: Split, images: int) -> World:
        """Returns a world; renders missing images."""
        folder = work / f"{shift}-{seed}"
        write_world(folder, WorldSettings(seed=seed, shift=shift), {split: images})
        return cls(folder, write_manifest(folder / f"{split}.yaml", folder, {split: images}))

    def config(self, source: str | None, change: dict[str, Any], teacher: str) -> Config:
        """Returns the settings of a row; `teacher` is a config in `mmseg_configs/teachers` without `demo_`."""
        masks = SOURCES[source] if source else {}
        model = {
            "kind": "mmseg",
            "config": str(ROOT / "mmseg_configs" / "teachers" / f"demo_{teacher}.py"),
            "checkpoint": str(WEIGHTS / f"ta_{teacher}.safetensors"),
        }
        settings = {
            "cache": str(self.folder / "cache"),
            "device": "cpu",
            **masks,
            "sam": {"views": VIEWS, **masks.get("sam", {})} | change.get("sam", {}),
            "teacher": {"model": model, "views": VIEWS} | change.get("teacher", {}),
            "fusion": change["fusion"],
        }
        return parse_settings(Config, settings, "benchmark pseudo_labels")


def run() -> dict[str, Any]:
    """Prints the table of `target-test`; returns the figures of the best mask source."""
    return compare()


def compare(
    images: int = IMAGES,
    seeds: int = SEEDS,
    sources: Sequence[str] = tuple(SOURCES),
    split: Split = "target-test",
    shift: Shift = "mild",
    teacher: str = "resnet_fpn",
    work: Path = WORK,
) -> dict[str, Any]:
    """Measures every row on `images` panoramas of each of `seeds` worlds; prints tables and returns the figures.

    Raises:
        UserError: an unknown source, or a panorama failed.
    """
    if unknown := set(sources) - set(SOURCES):
        raise UserError(f"--source: found {sorted(unknown)}; expected some of {', '.join(SOURCES)}")
    store = Rows(work / "rows.json")
    plan: list[tuple[str | None, str, dict[str, Any]]] = [(None, row, change) for row, change in TA_ROWS.items()]
    plan += [(source, rule, {"fusion": {"rule": rule}}) for source in sources for rule in RULES]
    rows: dict[tuple[str | None, str], list[dict[str, Any]]] = {}
    with console_progress() as progress:
        for seed in range(seeds):
            world = World.make(work, seed, shift, split, images)
            for source, row, change in plan:
                config = world.config(source, change, teacher)
                key = config.artefacts(world.manifest.preprocessing).key("fused")
                described = {"shift": shift, "world": seed, "split": split, "images": images, "fused": key}
                measured = store.get(described, functools.partial(measure, world, config, source, progress))
                rows.setdefault((source, row), []).append(measured)
    means = {name: _means(figures_by_world) for name, figures_by_world in rows.items()}
    for source in sources:
        _print(means, source, f"{teacher}, {source}: {seeds} worlds ({shift}) of {images} {split} panoramas, mean")
    return figures(means, sources) | {"images": images, "seeds": seeds, "shift": shift, "split": split}


def measure(world: World, config: Config, source: str | None, progress: Progress) -> dict[str, Any]:
    """Returns the figures of `evaluate` for one row; precomputes and fuses what is missing.

    Raises:
        UserError: a panorama failed.
    """
    from stages.evaluate.stage import evaluate
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    if source == "oracle":
        write_oracle(world.manifest, config)
    reports = precompute(
        world.manifest, config, only=["teacher", *(["sam", "masks"] if source else [])], progress=progress
    )
    for report in (*reports, fuse(world.manifest, config, progress=progress)):
        if report.failures:
            raise UserError(f"{report.artefact}: {next(iter(report.failures.values()))}")
    scores, failures = evaluate(world.manifest, [config], progress=progress)
    if failures:
        raise UserError(f"{config.fusion.rule.kind}: {next(iter(failures.values()))}")
    return scores[1].figures()


def write_oracle(manifest: Manifest, config: Config) -> None:
    """Writes the artefact `sam/oracle`: the connected components of the true instances in every view as masks."""
    artefact = Cache(config.cache, manifest.name).artefact("sam", "oracle")
    artefact.create({"masks": "connected pieces of true instances"}, {})
    for record in manifest.images:
        if source_matches(artefact.find_marker(record.id), record.path):
            continue
        instances = true_instances(record)
        views = make_views(config.sam.views, *instances.shape)
        with artefact.write(record.id, source=read_source(record.path)) as writer:
            writer.attributes |= views_to_attributes(views, instances.shape)
            write_mask_sets(writer, [component_masks(view.extract(instances)) for view in views])  # type: ignore[union-attr]


def true_instances(record: ImageRecord) -> np.ndarray:
    """Returns the instance ids `(H, W)` of a rendered panorama."""
    path = Path(str(record.path).replace("/images/", "/instances/"))
    return np.asarray(Image.open(path.with_name(f"{path.stem}_instanceIds.png"))).astype(np.int64)


def component_masks(instances: np.ndarray) -> Any:
    """Returns the 4-connected components of equal ids `(h, w)` as a mask set."""
    from skimage.measure import label

    from stages.precompute.generators.felzenszwalb import from_partition

    return from_partition(label(instances + 1, background=0, connectivity=1) - 1)


#: Printed figures and their titles.
COLUMNS = {
    "mIoU": "mIoU",
    "things": "things",
    "boundary_F_1px": "F 1 px",
    "boundary_F_2px": "F 2 px",
    "boundary_F_4px": "F 4 px",
    "ECE": "ECE",
    "coverage": "M cover",
    "precision": "M prec.",
    "precision_at_60": "at 60 %",
}


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns means over worlds, and the standard deviation of mIoU."""
    result = {name: float(np.mean([row[name] for row in rows])) for name in COLUMNS}
    return result | {"deviation": float(np.std([row["mIoU"] for row in rows]))}


def _print(means: dict[tuple[str | None, str], dict[str, float]], source: str, title: str) -> None:
    rows = [
        [row, *(figures[name] for name in COLUMNS), figures["deviation"]]
        for (row_source, row), figures in means.items()
        if row_source in (None, source)
    ]
    print_table(title, ["rule", *COLUMNS.values(), "± mIoU"], rows)


def figures(means: dict[tuple[str | None, str], dict[str, float]], sources: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of all rules with the best real mask source, and those of `best` on true masks."""
    real = [source for source in sources if source != "oracle"] or list(sources)
    chosen = max(real, key=lambda source: means[source, "best"]["mIoU"])
    rows = {"ta_whole": means[None, "ta_whole"], "ta": means[None, "ta"]}
    names = {"ssa": "ssa", "sepl": "sepl", "sgml": "sgml", "paper": "paper", "boundary": "boundary"}
    names |= {"best": "dar", "goodsampp": "goodsam_pp"}
    rows |= {name: means[chosen, rule] for rule, name in names.items()}
    result: dict[str, Any] = {name: round(row["mIoU"], 2) for name, row in rows.items()}
    result["oracle_masks"] = round(means["oracle", "best"]["mIoU"], 2) if "oracle" in sources else None
    for name in ("ta", "dar"):
        result[f"boundary_f_{name}"] = round(rows[name]["boundary_F_2px"], 2)
        result[f"things_{name}"] = round(rows[name]["things"], 2)
    result |= {"precision_dar": round(rows["dar"]["precision"], 2), "coverage_dar": round(rows["dar"]["coverage"], 2)}
    return result | {"precision_at_60_dar": round(rows["dar"]["precision_at_60"], 2), "mask_source": chosen}


def main(
    images: Annotated[int, typer.Option(min=1, help="Panoramas of each world.")] = IMAGES,
    seeds: Annotated[int, typer.Option(min=1, help="Worlds.")] = SEEDS,
    source: Annotated[list[str] | None, typer.Option(help=f"Some of {', '.join(SOURCES)}. Default: all.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Measure target-tune, the split for choosing rules.")] = False,
    strong: Annotated[bool, typer.Option("--strong", help="Worlds with the strong domain shift.")] = False,
    teacher: Annotated[str, typer.Option(help="resnet_fpn or segformer.")] = "resnet_fpn",
) -> None:
    """Measure the pseudo-labels of every fusion rule on the demo world."""
    split: Split = "target-tune" if tune else "target-test"
    shift: Shift = "strong" if strong else "mild"
    run_alone("pseudo_labels", lambda: compare(images, seeds, source or tuple(SOURCES), split, shift, teacher))


if __name__ == "__main__":
    typer.run(main)
