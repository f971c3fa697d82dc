"""The blocks of docs/clusters.md are valid, and name what exists."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_page_are_valid() -> None:
    languages = {language for language, _ in BLOCKS}
    assert languages == {"sh", "python", "yaml"}
    for language, text in BLOCKS:
        if language == "python":
            compile(text, "docs/clusters.md", "exec")
        elif language == "sh":
            result = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
            assert (result.returncode, result.stderr) == (0, ""), text
        else:
            for document in yaml.safe_load_all(text):
                assert {"apiVersion", "kind", "metadata", "spec"} == set(document)


def test_the_jobs_on_the_page_mount_what_they_declare() -> None:
    pods = []
    for _, text in (block for block in BLOCKS if block[0] == "yaml"):
        for document in yaml.safe_load_all(text):
            spec = document["spec"]
            pods += [spec["worker"]["spec"]] if document["kind"] == "DaskCluster" else [spec["template"]["spec"]]
    assert len(pods) == 3
    for pod in pods:
        declared = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == declared


def keywords(function: str) -> set[str]:
    """Returns the keywords with which the page calls `function`."""
    return {
        keyword.arg
        for language, text in BLOCKS
        if language == "python"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
        for keyword in node.keywords
        if keyword.arg
    }


def test_the_keywords_of_ssh_clusters_exist() -> None:
    from dask.distributed import SSHCluster

    assert keywords("SSHCluster")
    assert keywords("SSHCluster") <= set(inspect.signature(SSHCluster).parameters)


def test_the_keywords_of_slurm_clusters_exist() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    core, slurm = pytest.importorskip("dask_jobqueue.core"), pytest.importorskip("dask_jobqueue.slurm")
    accepted: set[str] = set()
    for owner in (core.JobQueueCluster, core.Job, slurm.SLURMJob):
        accepted |= set(inspect.signature(owner.__init__).parameters)
    assert keywords("SLURMCluster")
    assert keywords("SLURMCluster") <= accepted, jobqueue.__version__


def test_the_commands_of_the_page_copy_one_artefact(make_project: Callable[..., Project]) -> None:
    """The artefact travels as a zip file. In the other cache it is complete, and the loader reads it."""
    project = make_project(2)
    precompute(project.manifest(), project.config())
    fused = fuse(project.manifest(), project.config()).artefact
    (text,) = [block for language, block in BLOCKS if language == "sh" and "zipfile" in block]
    folder = Path(fused.storage.url).parents[1]
    text = text.replace("0123456789ab", fused.key).replace("my_panoramas", "toy").replace("python", sys.executable)
    subprocess.run(["bash", "-e", "-c", text], cwd=folder, check=True)
    other = Cache(str(folder / "other_cache"), "toy").artefact("fused", fused.key)
    for marker in fused.markers():
        other.verify(marker)
        assert other.find_marker(marker.id) == marker
    config = project.config(f"cache={folder / 'other_cache'}")
    assert CacheReader(project.manifest(), config, ("train",)).ids == ("p000", "p001")
