"""Effect of rolling a panorama on its pseudo-labels: none by multiples of the window stride, small by other amounts.

Panoramas of the demo's `target-test` at half size, with the settings of `configs/demo.yaml`, windows every 128 columns.
Both stages process every rolled panorama as an image of its own. By other amounts than the window stride, the windows
hold other crops of the scene. The agreement with the labels of the panorama is in percent of the pixels.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from demo.splits import WorldSettings, render_sample
from pipeline.cache import Cache
from pipeline.core.cli import print_table
from pipeline.core.progress import console_progress
from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config, load_config

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
IMAGES = 4
#: Columns; multiples of the window stride, of the TA's output stride, and of neither.
ROLLS = (128, 640, 64, 300, 37, 501)
RULES = ("ta", "ssa", "sepl", "sgml", "paper", "boundary", "goodsampp", "best")


def run(images: int = IMAGES, rolls: tuple[int, ...] = ROLLS, rules: tuple[str, ...] = RULES) -> dict[str, Any]:
    """Measures the agreement in percent for every rule and roll; reports the lowest over rolls by the window stride."""
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    agreement: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="roll-") as folder, console_progress() as progress:
        manifest = write_images(Path(folder), images, rolls)
        for rule in rules:
            config = load_config(
                CONFIG, [f"cache={json.dumps(folder + '/cache')}", "device=cpu", f"fusion.rule={rule}"]
            )
            reports = [*precompute(manifest, config, progress=progress), fuse(manifest, config, progress=progress)]
            assert not any(report.failures for report in reports), reports
            agreement[rule] = {roll: agree(manifest, config, images, roll) for roll in rolls}
    print_table(
        f"labels of the rolled panorama, rolled back: pixels that agree (%), {images} panoramas",
        ["rule", *(f"by {roll}" for roll in rolls)],
        [[rule, *by_roll.values()] for rule, by_roll in agreement.items()],
    )
    stride = load_config(CONFIG).teacher.views.stride
    by_stride = [by_roll[roll] for by_roll in agreement.values() for roll in rolls if roll % stride == 0]
    others = {rule: [v for roll, v in by_roll.items() if roll % stride] for rule, by_roll in agreement.items()}
    return {
        "by_the_distance_of_windows": round(min(by_stride), 4),
        **{f"other_rolls_{rule}": round(float(np.mean(values)), 2) for rule, values in others.items()},
        "images": images,
    }


def write_images(folder: Path, images: int, rolls: tuple[int, ...]) -> Manifest:
    """Writes the panoramas, their rolls and a manifest."""
    (folder / "images").mkdir()
    for index in range(images):
        image = render_sample(WorldSettings(), "target-test", index).image
        for roll in (0, *rolls):
            Image.fromarray(np.roll(image, roll, axis=1)).save(folder / "images" / f"{index}-{roll}.png")
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"name": "roll", "root": "images", "splits": {"test": {"images": ["*.png"]}}}))
    return load_manifest(path)


def agree(manifest: Manifest, config: Config, images: int, roll: int) -> float:
    """Returns the pixels, in percent, whose label is the same in the panorama and in the rolled one."""
    key = config.artefacts(manifest.preprocessing).key("fused")
    fused = Cache(config.cache, manifest.name).artefact("fused", key)
    same = [
        np.mean(
            np.roll(fused.read(f"{k}-0").read_array("label"), roll, axis=1)
            == fused.read(f"{k}-{roll}").read_array("label")
        )
        for k in range(images)
    ]
    return 100 * float(np.mean(same))
