"""What rolling a panorama changes in its pseudo-labels: nothing by the windows' distance, a little by other amounts.

Panoramas of the demo's `target-test` at half size, by the settings of `configs/demo.yaml`, windows every 128
columns. Both stages see every rolled panorama as an image of its own. By other rolls than the windows' distance the
windows cut the scene elsewhere, so that SAM and the TA see other crops: how far they and the rule then agree with
themselves, in percent of the pixels.
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
#: Columns; multiples of the windows' distance, of the TA's output stride, and of neither.
ROLLS = (128, 640, 64, 300, 37, 501)
RULES = ("ta", "ssa", "sepl", "sgml", "paper", "boundary", "goodsampp", "best")


def run(images: int = IMAGES, rolls: tuple[int, ...] = ROLLS, rules: tuple[str, ...] = RULES) -> dict[str, Any]:
    """Agreement of every rule under every roll, in percent; the least over rolls by the windows' distance."""
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    agreement: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="roll-") as folder, console_progress() as progress:
        manifest = lay_out(Path(folder), images, rolls)
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
        [[rule, *own.values()] for rule, own in agreement.items()],
    )
    stride = load_config(CONFIG).teacher.views.stride
    whole = [own[roll] for own in agreement.values() for roll in rolls if roll % stride == 0]
    others = {rule: [value for roll, value in own.items() if roll % stride] for rule, own in agreement.items()}
    return {
        "by_the_distance_of_windows": round(min(whole), 4),
        **{f"other_rolls_{rule}": round(float(np.mean(values)), 2) for rule, values in others.items()},
        "images": images,
    }


def lay_out(folder: Path, images: int, rolls: tuple[int, ...]) -> Manifest:
    """The panoramas and their rolls as files, with their manifest."""
    (folder / "images").mkdir()
    for index in range(images):
        picture = render_sample(WorldSettings(), "target-test", index).image
        for roll in (0, *rolls):
            Image.fromarray(np.roll(picture, roll, axis=1)).save(folder / "images" / f"{index}-{roll}.png")
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"name": "roll", "root": "images", "splits": {"test": {"images": ["*.png"]}}}))
    return load_manifest(path)


def agree(manifest: Manifest, config: Config, images: int, roll: int) -> float:
    """Pixels, in percent, whose label is the same in the panorama and in the rolled one."""
    key = config.artefacts(manifest.preprocessing).key("fused")
    fused = Cache(config.cache, manifest.name).artefact("fused", key)
    same = [
        np.mean(np.roll(fused.read(f"{k}-0").array("label"), roll, axis=1) == fused.read(f"{k}-{roll}").array("label"))
        for k in range(images)
    ]
    return 100 * float(np.mean(same))
