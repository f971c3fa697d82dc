"""Converts trained weights of nano SAM to the shipped form: safetensors in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from demo.sam.model import build
from pipeline.core.atomic_files import atomic_write
from pipeline.models.weights import load_into


def export_weights(best: Path, out: Path) -> int:
    """Writes `best.pt` of a training as float16 safetensors, checks that nano SAM loads it, and returns its bytes."""
    from safetensors.torch import save

    content = torch.load(best, map_location="cpu", weights_only=True)
    state = {
        # vectors stay in float32: a running variance may exceed the range of float16
        name: (value.half() if value.dtype.is_floating_point and value.ndim > 1 else value).contiguous()
        for name, value in content["sam"].items()
    }
    with atomic_write(out) as temporary:
        temporary.write_bytes(save(state, {"step": str(content["step"]), "builder": "demo.sam.model:build"}))
    load_into(build(), out, "nano SAM")
    return out.stat().st_size


def main(
    best: Annotated[Path, typer.Option(help="best.pt of a training.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("demo/weights/nano_sam.safetensors"),
) -> None:
    """Convert trained weights to the shipped form."""
    typer.echo(f"{out}: {export_weights(best, out) / 2**20:.2f} MiB")


if __name__ == "__main__":
    typer.run(main)
