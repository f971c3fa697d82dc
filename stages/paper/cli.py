"""Command line of `paper`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo, print_table, run_command
from pipeline.core.errors import UserError
from stages.options import WorkDirOption, option

#: The suites in the order in which they share most: each begins with what is cached.
SUITES = ("fusion", "components", "goodsam_pp", "students", "rounds", "windows")


def command(
    densepass: Annotated[
        Path, option("--densepass", "Folder of DensePASS and WildPASS2K, see docs/models.md.", "FOLDER")
    ],
    sam: Annotated[Path, option("--sam", "Checkpoint of SAM ViT-H.", "FILE")],
    ta: Annotated[Path, option("--ta", "Checkpoint of SegFormer-B5 trained on Cityscapes.", "FILE")],
    suite: Annotated[
        list[str] | None, option("--suite", f"Only these tables. Default: {', '.join(SUITES)}.", "NAME")
    ] = None,
    set_: Annotated[list[str] | None, option("--set", "Override one setting. Repeatable.", "KEY=VALUE")] = None,
    cache: Annotated[str | None, option("--cache", "Cache folder or URL.", "URL")] = None,
    plan: Annotated[bool, option("--plan", "Only check and list what will be computed.")] = False,
    work_dir: WorkDirOption = Path("work_dirs"),
) -> Result | None:
    """Makes the paper's tables on DensePASS val, students included.

    Checks the folders and the weights, prints the plan, and runs the suites with `data_manifests/densepass.yaml` and
    `configs/sam_vit_h.yaml`. The published results stand beside. A stopped run continues.
    """
    from stages.paper.checks import check_data, check_weights

    paths = {"DENSEPASS": densepass, "SAM_CHECKPOINT": sam, "TA_CHECKPOINT": ta}
    os.environ |= {name: str(path.expanduser().absolute()) for name, path in paths.items()}
    found = [*check_data(densepass), *check_weights(sam, ta)]
    print_table("data and weights", ["", "found", "published"], found)
    options = ["--manifest", "densepass", "--config", "sam_vit_h", "--split", "val", "--work-dir", str(work_dir)]
    options += [word for name in suite or SUITES for word in ("--suite", name)]
    options += [word for change in set_ or () for word in ("--set", change)]
    options += ["--cache", cache] if cache is not None else []
    for last in (["--plan"],) if plan else (["--plan"], []):
        done = run_command("ablate", *options, *last)
        if done.returncode:
            raise UserError(f"paper: ablate ended with exit status {done.returncode}; its messages give the reason")
    if not plan:
        echo(f"tables: {work_dir}/densepass/suites/")
    return Result({"stage": "paper", "suites": list(suite or SUITES), "planned": plan})
