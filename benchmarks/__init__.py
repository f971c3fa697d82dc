"""Benchmarks: figures that are measured in one run. A module each, listed in `benchmarks.__main__`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parent.parent / "configs"


def nano_sam() -> dict[str, Any]:
    """`sam.generator` (with the checkpoint's absolute path) and `masks.filter` of `configs/demo_sam.yaml`."""
    settings = yaml.safe_load((CONFIGS / "demo_sam.yaml").read_text())
    generator = settings["sam"]["generator"]
    return {
        "generator": generator | {"checkpoint": str((CONFIGS / generator["checkpoint"]).resolve())},
        "filter": settings["masks"]["filter"],
    }
