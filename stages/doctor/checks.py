"""Checks of the installation: packages, device, cache, and what optional features need."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Literal

from pipeline.core.cli import free_mib
from pipeline.core.reading import is_file, shorten
from stages.options import RunOptions

#: Modules that every run needs, by part.
REQUIRED = {
    "torch": ("torch", "torchvision"),
    "OpenMMLab": ("cv2", "mmengine", "mmcv", "mmseg"),
    "SAM": ("segment_anything",),
    "numpy": ("numpy", "scipy", "skimage", "PIL"),
    "zarr": ("zarr", "numcodecs", "fsspec"),
    "dask": ("dask", "distributed"),
}

#: Features that need an optional package: modules, and how to install them.
OPTIONAL = {
    "ONNX export": (("onnx", "onnxscript", "onnxruntime"), "pip install 'goodsam-offline[onnx]'"),
    "ONNX students": (("onnxruntime",), "pip install onnxruntime"),
    "Hugging Face TAs": (("transformers",), "pip install 'goodsam-offline[huggingface]'"),
    "TensorBoard": (("tensorboard",), "pip install 'goodsam-offline[tensorboard]'"),
    "S3 caches": (("s3fs",), "pip install 'goodsam-offline[s3]'"),
    "SLURM clusters": (("dask_jobqueue",), "pip install dask-jobqueue"),
}

#: Features that need a file: the environment variable that the settings in `configs` read.
WEIGHTS = {"SAM weights": "SAM_CHECKPOINT", "TA weights": "TA_CHECKPOINT"}


@dataclass(frozen=True)
class Check:
    """The state of one part or feature: `missing` is for optional ones, and with a `broken` one no run can work.

    The detail gives versions or figures; otherwise the reason and the remedy.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str


def check_packages() -> list[Check]:
    """Imports every required package."""
    checks, packages = [Check("python", "ok", platform.python_version())], packages_distributions()
    for part, modules in REQUIRED.items():
        errors = list(filter(None, map(_import_error, modules)))
        versions = [f"{name} {version(packages[name][0]) if name in packages else '(no version)'}" for name in modules]
        checks.append(Check(part, "broken" if errors else "ok", "; ".join(errors) or ", ".join(versions)))
    return checks


def _import_error(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # a package may raise anything while it is imported
        return f"{module}: {shorten(' '.join(str(error).split()) or type(error).__name__, 160)}"
    return ""


def check_device() -> Check:
    """Describes the GPUs, or the CPU if there is none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except ImportError:
        return Check("device", "broken", "torch is missing")
    if not torch.cuda.is_available():
        return Check("device", "ok", f"CPU only: {cores} cores, torch uses {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    described = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
    return Check("device", "ok", f"CUDA: {described}; {cores} CPU cores")


def check_cache(run: RunOptions) -> Check:
    """Counts the artefacts in the cache, without reading them, and the free space on its disk."""
    url = run.read_settings(keep_unset=True).cache
    free = free_mib(url)
    space = "" if free is None else f"; {free / 1024:.1f} GiB free"
    if "://" not in url and not Path(url).is_dir():
        return Check("cache", "ok", f"{url}: not written yet{space}")
    if "://" in url and run.manifest is None:
        return Check("cache", "ok", f"{url}: not checked; expected --manifest")
    artefacts = images = failed = other = 0
    for cache in run.caches().values():
        readable, refused = cache.readable_artefacts()
        artefacts, other = artefacts + len(readable), other + len(refused)
        for artefact in readable:
            images += _count(artefact.storage.files(f"{artefact.path}/done"))
            failed += _count(artefact.storage.files(f"{artefact.path}/failed"))
    counts = f"{artefacts} artefacts, {images} images, {failed} failed, {other} of another format or damaged"
    return Check("cache", "ok", f"{url}: {counts}{space}")


def _count(names: Iterable[str]) -> int:
    return sum(1 for name in names if not name.startswith("."))


def check_features() -> list[Check]:
    """Checks the weights that the installed settings name, and the optional packages."""
    checks = []
    for feature, variable in WEIGHTS.items():
        path = os.environ.get(variable)
        if path and is_file(path):
            checks.append(Check(feature, "ok", f"{variable}={path}"))
        else:
            problem = f"{variable}={path}: no such file" if path else f"{variable} is not set"
            checks.append(Check(feature, "missing", f"{problem}; expected the path of a checkpoint"))
    for feature, (modules, remedy) in OPTIONAL.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        detail = f"{', '.join(missing)} not installed: {remedy}" if missing else ", ".join(modules)
        checks.append(Check(feature, "missing" if missing else "ok", detail))
    return checks
