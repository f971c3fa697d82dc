"""Weights: read without executing the file that holds them, checked against a model, and written atomically.

Every `.pth` file goes through `pipeline.models.unpickling`, without a fallback. Nothing is downloaded. torch and
mmengine are imported by the functions that need them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core.atomic_files import atomic_write
from pipeline.core.errors import UserError
from pipeline.core.reading import error_text, is_file, short_repr, shorten
from pipeline.models.unpickling import read_pickle

if TYPE_CHECKING:
    import torch

ModelT = TypeVar("ModelT", bound="torch.nn.Module")

_EXPECTED = (
    "expected a .pth, .pt or .safetensors file that holds tensors only: a state dict, "
    "or a dict with it under 'state_dict' or 'model'"
)
_MAX_KEYS_LISTED = 4


def _read(path: Path, map_location: Any = "cpu") -> Any:
    """Returns the content of a checkpoint file as plain data. Raises `UserError`."""
    if "://" in str(path) or re.match(r"[\w-]+:/[^/]", str(path)):
        raise UserError(f"{path}: remote checkpoints are not loaded; download the file and pass its local path")
    if not is_file(path):
        raise UserError(f"{shorten(path)}: no such checkpoint file; {_EXPECTED}")
    try:
        if path.suffix.lower() == ".safetensors":
            return _read_safetensors(path, map_location)
        return read_pickle(path, map_location)
    except Exception as error:  # many classes: of the two readers, and others for damaged files
        raise UserError(f"{path}: {_refusal(path, str(error) or type(error).__name__)}; {_EXPECTED}") from error


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(map_location or "cpu")) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return {"state_dict": tensors, "meta": dict(file.metadata() or {})}


def _refusal(path: Path, reason: str) -> str:
    if name := re.search(r"(?:GLOBAL|unrecognized function) (\S+)", reason):
        return f"the checkpoint asks to run code ({shorten(name.group(1), 160)}), which is refused"
    if "TorchScript" in reason:
        return "found a TorchScript archive, which carries code and is refused"
    file_type = "safetensors file" if path.suffix.lower() == ".safetensors" else "checkpoint"
    return f"not a readable {file_type} ({reason.strip().partition(chr(10))[0][:160]})"


def load_state_dict(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads the weights of a checkpoint on the CPU.

    Raises `UserError` if the file is missing, unreadable, carries code, or holds something other than tensors.

    Args:
        path: A local `.pth`, `.pt` or `.safetensors` file that holds `{'state_dict': ..., 'meta': ...}`,
            `{'model': ...}` or a plain state dict. A prefix `module.` of all keys is dropped.

    Returns:
        Tensors by parameter name, and the checkpoint's `meta` (plain data, `{}` if there is none), whose strings are
        never to be used as code or paths.
    """
    import torch

    path = Path(path)
    content = _read(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: found a {type(content).__name__} at the top level; {_EXPECTED}")
    meta = content.get("meta")
    weights = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)), content)
    if not weights:
        raise UserError(f"{path}: found no tensors; {_EXPECTED}")
    for key, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: found {short_repr(key)} of type {type(value).__name__}; {_EXPECTED}")
    state = {str(k): v for k, v in weights.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, dict(meta) if isinstance(meta, Mapping) else {}


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Writes tensors, numbers, text, lists and dicts atomically with `torch.save`; creates the folder.

    The same content gives the same bytes: a path would put its file name into the file.
    """
    import torch

    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_into(model: torch.nn.Module, path: str | Path, what: str) -> dict[str, Any]:
    """Loads a checkpoint's weights into a model in place, every key exactly once, and returns its `meta`.

    Subnormal weights become zero. Raises `UserError` as `load_state_dict` does, or if keys are missing, unexpected, or
    of another shape; it names the model as `what`, e.g. `the teacher mmseg_configs/teachers/x.py`. BatchNorm's
    `num_batches_tracked` may be missing: old checkpoints lack it, and inference does not read it.
    """
    state, meta = load_state_dict(path)
    _assign_weights(model, state, path, what)
    return meta


def load_pretrained(model: torch.nn.Module, path: str | Path, what: str, *, classifier: bool = True) -> bool:
    """Loads the weights that a training begins with; arguments and errors are those of `load_into`.

    Returns whether the classification layers (`conv_seg` of mmsegmentation's heads) were loaded too. They are not if
    the file's classes are not the model's (`classifier` is False), or if it has them for another number of classes.
    """
    state, _ = load_state_dict(path)
    current = model.state_dict()
    classifier_keys = [k for k in current if k.rpartition(".")[0].endswith("conv_seg")]
    fits = classifier and all(k in state and state[k].shape == current[k].shape for k in classifier_keys)
    if not fits:
        state |= {k: current[k] for k in classifier_keys}
    _assign_weights(model, state, path, what)
    return fits


def load_backbone(backbone: torch.nn.Module, path: str | Path, what: str) -> None:
    """Loads all weights of a backbone, from a file of its own or from a whole segmentor's, see `load_into`.

    If a key begins with `backbone.`, only such keys are read. The file may hold more weights (a head, a classifier).
    A missing weight is an error; mmengine would load the weights that fit and leave the others random.
    """
    state, _ = load_state_dict(path)
    prefix = "backbone." if any(key.startswith("backbone.") for key in state) else ""
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    _assign_weights(backbone, state, path, what, partial=True)


def _assign_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, what: str, *, partial: bool = False
) -> None:
    """Loads `state` if its names and shapes are those of `model`; `partial`: the model needs only some of it."""
    current = model.state_dict()
    missing = [k for k in current if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in current and not partial]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(value.shape)}"
        for k, value in current.items()
        if k in state and state[k].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {name} ({shorten(', '.join(keys[:_MAX_KEYS_LISTED]))}"
        f"{', ...' if len(keys) > _MAX_KEYS_LISTED else ''})"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        counts = f"of its {len(state)} weights and the model's {len(current)}"
        raise UserError(f"{path}: does not fit {what}; {counts}: {'; '.join(problems)}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors that are not plain numbers: sparse, quantised, without data
        raise UserError(f"{path}: its weights cannot be those of {what} ({error_text(error)})") from None
    zero_subnormals(model)


def zero_subnormals(model: ModelT) -> ModelT:
    """Sets subnormal weights to zero, in place, and returns the model.

    A CPU takes up to a hundred times as long for arithmetic on subnormal numbers. Those of float32, bfloat16 and
    float64 are below 1.2e-38, so that no logit changes. Those of float16 reach 6e-5 and are not touched.
    """
    import torch

    with torch.no_grad():
        for values in itertools.chain(model.parameters(), model.buffers()):
            if values.dtype in (torch.float32, torch.bfloat16, torch.float64):
                normal = values.abs() >= torch.finfo(values.dtype).tiny
                if not normal.all():
                    values.mul_(normal)  # keeps NaN, and the sign of zero
    return model


def register_safe_mmengine_loader() -> None:
    """Makes every checkpoint that mmengine loads in this process go through this module. Idempotent.

    `Runner`, `CheckpointHook`, `init_cfg=dict(type='Pretrained')`, and mmseg's backbones and heads ask
    `CheckpointLoader` for a loader by the scheme of the path, which retries with `weights_only=False` after a failure.
    All schemes get ours, which refuses remote ones.
    `Runner.resume` executes `meta['config']`, a Python config as text, which old versions wrote: that key is dropped.
    Other pickles that mmengine reads (annotation files, results of other ranks) are not used by the stages.
    """
    from mmengine.runner import CheckpointLoader

    def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
        content = _read(Path(filename).expanduser(), map_location)
        if not isinstance(content, dict):
            raise UserError(f"{filename}: found a {type(content).__name__} at the top level; {_EXPECTED}")
        if isinstance(content.get("meta"), dict):
            content["meta"].pop("config", None)
        return content

    # private: mmengine has no public list of the schemes that have a loader (tests/contracts/test_mmengine.py)
    CheckpointLoader.register_scheme(prefixes=list(CheckpointLoader._schemes), loader=load_from_local, force=True)
