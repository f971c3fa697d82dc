"""Writes trained weights of nano SAM in the form that is shipped: half precision, safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from demo.sam.model import build
from pipeline.core.atomic_files import whole_file
from pipeline.models.weights import load_into


def export(best: Path, out: Path) -> int:
    """`best.pt` of a training as float16 safetensors at `out`; its size in bytes.

    Loading converts float16 to float32 without loss, so whoever loads the file gets the same weights everywhere.
    """
    from safetensors.torch import save

    content = torch.load(best, map_location="cpu", weights_only=True)
    state = {
        # a running variance may be larger than any float16
        name: (value.half() if value.dtype.is_floating_point and value.ndim > 1 else value).contiguous()
        for name, value in content["sam"].items()
    }
    with whole_file(out) as temporary:
        temporary.write_bytes(save(state, {"step": str(content["step"]), "builder": "demo.sam.model:build"}))
    load_into(build(), out, "nano SAM")
    return out.stat().st_size


def main(
    best: Annotated[Path, typer.Option(help="best.pt of a training.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("demo/weights/nano_sam.safetensors"),
) -> None:
    """Convert and check that it loads."""
    typer.echo(f"{out}: {export(best, out) / 2**20:.2f} MiB")


if __name__ == "__main__":
    typer.run(main)
