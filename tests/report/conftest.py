"""A small data set with labels, two ensembles and a results file, all with names that try to inject code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.data.results import LiteratureRow, ResultRow, Results, save_results
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project, write_yaml
from tests.models import street

#: Names of files and rows that would run a script, or end an element, on a page that does not escape them.
INJECTIONS = (
    "<img src=x onerror=window.hacked=1>",
    "'\"><svg onload=window.hacked=1>",
    "a</script><script>window.hacked=1;",
    "plain {{ 7*7 }} ${window.hacked=1}",
)


@dataclass(frozen=True)
class Measured:
    """A fused project and its results file."""

    project: Project
    results: Path


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Four panoramas of 64 x 256 with labels, the rules `best` and `paper`, and rows of both."""
    folder = tmp_path_factory.mktemp("report")
    project = Project(folder)
    for k, name in enumerate(INJECTIONS):
        project.add_image(f"{name}.png", street(seed=k))
        project.add_labels(f"{name}_labelTrainIds.png", np.full((64, 256), (255, 8, 13, 0)[k], np.uint8))
    labels = {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}
    split = {"images": ["images/**/*"], "labels": labels}
    write_yaml(project.manifest_path, {"name": "toy", "splits": {"test": split}, "licence": INJECTIONS[0]})
    views = {"width": 128, "stride": 64}
    settings: dict[str, Any] = {
        "cache": str(folder / "cache"),
        "sam": {"views": views, "generator": {"kind": "felzenszwalb", "min_size": 30}},
        "teacher": {"views": views, "model": {"kind": "module", "builder": "tests.models:tiny_teacher"}},
    }
    write_yaml(project.config_path, settings)
    manifest, rows = project.manifest(), []
    precompute(manifest, project.config())
    for number, rule in enumerate(("paper", "best")):
        config = project.config(f"fusion.rule={rule}")
        fuse(manifest, config)
        file = folder / f"{rule}.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        for seed in (0, 1):
            rows.append(_row(rule, number, seed, file.name, config.artefacts(manifest.preprocessing).key("fused")))
    rows.append(ResultRow(name=INJECTIONS[2], kind="student", figures={"mIoU": 30.0}, command=INJECTIONS[2]))
    results = Results(
        title=INJECTIONS[0],
        description=INJECTIONS[1],
        manifest=project.manifest_path.name,
        columns=("rule", INJECTIONS[3]),
        rows=tuple(rows),
        literature=(LiteratureRow(name=INJECTIONS[2], source=INJECTIONS[1], figures={"mIoU": 60.0}),),
    )
    save_results(folder / "results.json", results)
    return Measured(project, folder / "results.json")


def _row(rule: str, number: int, seed: int, config: str, key: str) -> ResultRow:
    panoramas = {f"images/{name}": {"mIoU": 20.0 + 10 * k, "weight": 50.0 + k} for k, name in enumerate(INJECTIONS)}
    return ResultRow(
        name=f"rule {rule}",
        settings={"rule": rule, INJECTIONS[3]: INJECTIONS[0]},
        seed=seed,
        config=config,
        keys={"fused": key},
        command=f"goodsam fuse --fusion {rule}",
        figures={"images": 4, "mIoU": 40.0 + 5 * number + seed, "ECE": 4.0 - number, "l_cc": 0.1},
        IoU={"road": 50.0 + number, "car": 70.0 - number},
        panoramas=panoramas,
        seconds={"fuse": 1.5},
    )
