"""Checkpoints: loaded without ever executing what they carry, written whole or not at all.

A `.pth` file is a pickle, and unpickling runs code. Everything here goes through
`torch.load(weights_only=True)`, which interprets the pickle and calls nothing but what is allow-listed.
There is no fallback: a file that needs more is refused with one sentence. mmengine's own loading
(`Runner(resume=...)`, `load_from`, `init_cfg=Pretrained`) retries with `weights_only=False` after a
failure; `register_safe_mmengine_loader` takes that path away.

This module never builds a model and never downloads anything. Importing it is cheap: torch and mmengine are
imported by the functions that need them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.atomic_files import whole_file
from pipeline.core.errors import UserError
from pipeline.core.reading import is_file, shortened, shown

if TYPE_CHECKING:
    import numpy as np
    import torch

_EXPECTED = (
    "expected a .pth, .pt or .safetensors file that holds tensors only: a state dict, "
    "or a dict with it under 'state_dict' or 'model'"
)
_KEYS_NAMED = 4
_torch_load_lock = threading.Lock()


class _DType:
    """Stands for `numpy.dtype` while a checkpoint is read: a plain scalar type by name, nothing else."""

    def __init__(self, name: str = "", *_: object) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else str(name)
        if not re.fullmatch(r"[<>|=]?[biufcSU]\d{1,4}|bool", text):
            raise ValueError(f"numpy dtype {text!r}")
        self.name = text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">") and self.name[0] not in "<>|=":
            self.name = order + self.name


class _Array:
    """Stands for `numpy.ndarray`: raw bytes with a plain scalar type and a shape."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        import numpy as np

        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
            raise ValueError("a numpy array of Python objects")
        flat = np.frombuffer(raw, dtype=np.dtype(dtype.name))
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


def _array(*_: object) -> _Array:
    """Stands for numpy's `_reconstruct`, ignoring the class it is told to construct."""
    return _Array()


def _scalar(dtype: _DType, raw: bytes) -> Any:
    """Stands for numpy's `scalar`."""
    import numpy as np

    if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
        raise ValueError("a numpy scalar of a Python object")
    return np.frombuffer(raw, dtype=np.dtype(dtype.name))[0]


class _History:
    """Stands for mmengine's `HistoryBuffer`: two arrays and a length; functions in its state are dropped."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = {k: state[k] for k in ("_log_history", "_count_history", "max_length") if k in state}


def _no_bytes(*_: object) -> bytes:
    """Stands for `bytes()`, which is how empty bytes are pickled."""
    return b""


def _nothing(*_: object) -> None:
    """Stands for `builtins.getattr`, by which `HistoryBuffer` pickles references to its own methods."""
    return None


def _stand_ins() -> list[Any]:
    """What our own training checkpoints name besides tensors, each mapped to a stand-in defined above.

    mmengine itself allow-lists the real `getattr`, `HistoryBuffer`, `numpy.ndarray` and `numpy.dtype`. Of
    these `getattr` reaches any attribute of anything allow-listed, `HistoryBuffer.__setstate__` installs
    functions that are called later, and `dtype` and `ndarray` accept states that reinterpret bytes as
    Python objects. None of the real ones is allow-listed here. The stand-ins only keep bytes, numbers and
    names; they look up no attribute, import nothing by name and call nothing they are given. Real arrays
    and buffers are made of them afterwards.
    """
    names: list[Any] = [
        (_DType, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
        (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_nothing, "builtins.getattr"),
        (_no_bytes, "builtins.bytes"),
    ]
    for core in ("numpy._core.multiarray", "numpy.core.multiarray"):
        names += [(_array, f"{core}._reconstruct"), (_scalar, f"{core}.scalar")]
    return names


def _restore(value: Any) -> Any:
    """Replace stand-ins by the numpy arrays and history buffers that they hold, in place where possible."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _History):
        from mmengine.logging import HistoryBuffer

        state = {k: _restore(v) for k, v in value.state.items()}
        log, count = state["_log_history"], state["_count_history"]
        return HistoryBuffer(log, count, int(state.get("max_length", 1_000_000)))
    if isinstance(value, dict):
        for key in value:
            value[key] = _restore(value[key])
    elif isinstance(value, list):
        value[:] = [_restore(item) for item in value]
    elif type(value) is tuple:
        return tuple(_restore(item) for item in value)
    return value


def _read(path: Path, map_location: Any = "cpu") -> Any:
    """The whole content of a checkpoint file as plain data; `UserError` for everything that is not that."""
    if "://" in str(path) or re.match(r"[\w-]+:/[^/]", str(path)):
        raise UserError(f"{path}: remote checkpoints are not loaded; download the file and pass its local path")
    if not is_file(path):
        raise UserError(f"{shortened(path)}: no such checkpoint file; {_EXPECTED}")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path, map_location)
    import torch

    with _torch_load_lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(_stand_ins()):
                content = torch.load(path, map_location=map_location, weights_only=True)
            return _restore(content)
        except Exception as error:
            raise UserError(_why_refused(path, error)) from error
        finally:
            torch.serialization.add_safe_globals(before)


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt", device=str(map_location or "cpu")) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return {"state_dict": tensors, "meta": dict(file.metadata() or {})}
    except Exception as error:  # its own class, and others for what its header holds
        reason = shortened(error, 160) or type(error).__name__
        raise UserError(f"{path}: not a readable safetensors file ({reason}); {_EXPECTED}") from error


def _why_refused(path: Path, error: Exception) -> str:
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text) or re.search(r"unrecognized function (\S+)", text)
    if named:
        asked = shortened(named.group(1), 160)
        return f"{path}: the checkpoint asks to run code ({asked}), which is refused; {_EXPECTED}"
    if "TorchScript" in text:
        return f"{path}: found a TorchScript archive, which carries code and is refused; {_EXPECTED}"
    reason = text.strip().splitlines()[0][:160] if text.strip() else type(error).__name__
    return f"{path}: not a readable checkpoint ({reason}); {_EXPECTED}"


def load_state_dict(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the weights of a checkpoint on the CPU.

    Args:
        path: a local `.pth` / `.pt` (`torch.save`) or `.safetensors` file that holds
            `{'state_dict': ..., 'meta': ...}`, `{'model': ...}` or a plain state dict; a `module.` on every
            key is dropped.

    Returns:
        `(state_dict, meta)`: parameter name -> CPU tensor, and the checkpoint's `meta` (plain data, `{}`
        without one). `meta` comes from whoever wrote the file: treat its strings as data, never as code or
        paths.

    Raises:
        UserError: the file is missing, unreadable, carries code, or holds something other than tensors.
    """
    import torch

    path = Path(path)
    content = _read(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: found a {type(content).__name__} at the top level; {_EXPECTED}")
    meta = content.get("meta")
    weights = next(
        (content[k] for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)),
        content,
    )
    if not weights:
        raise UserError(f"{path}: found no tensors; {_EXPECTED}")
    for key, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: found {shown(key)} of type {type(value).__name__}; {_EXPECTED}")
    state = {str(k): v for k, v in weights.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, dict(meta) if isinstance(meta, Mapping) else {}


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all; makes the folder.

    Args:
        content: tensors, numbers, text, lists and dicts only, so that it loads with `weights_only`.
    """
    import torch

    with whole_file(path) as temporary:
        torch.save(content, temporary)


def load_into(model: torch.nn.Module, path: str | Path, what: str) -> dict[str, Any]:
    """Load a checkpoint's weights into a model, every key exactly once.

    Args:
        model: receives the weights, in place.
        path: as for `load_state_dict`.
        what: what the model is, for the message: `'the teacher mmseg_configs/teachers/x.py'`.

    Returns:
        The checkpoint's `meta`.

    Raises:
        UserError: additionally when keys are missing, unexpected, or of another shape. BatchNorm's
            `num_batches_tracked` may be missing: old checkpoints lack it, and inference does not read it.
    """
    state, meta = load_state_dict(path)
    unexpected = [k for k in state if k not in model.state_dict()]
    _refuse_unfit(model, state, unexpected, path, what)
    _assign(model, state, path, what)
    return meta


def load_pretrained(model: torch.nn.Module, path: str | Path, what: str, *, classifier: bool = True) -> bool:
    """Load the weights that a training begins with; False if the layers that name the classes were left as they are.

    These (`conv_seg` of mmsegmentation's heads) are left if the file has them for another number of classes.

    Args:
        model: receives the weights, in place.
        path: as for `load_state_dict`.
        what: what the model is, for the message.
        classifier: False leaves them in any case: the file's classes are others.

    Raises:
        UserError: as `load_into`, about all other layers.
    """
    state, _ = load_state_dict(path)
    own = model.state_dict()
    namers = [k for k in own if k.rpartition(".")[0].endswith("conv_seg")]
    kept = classifier and all(k in state and state[k].shape == own[k].shape for k in namers)
    if not kept:
        state = {**state, **{k: own[k] for k in namers}}
    _refuse_unfit(model, state, [k for k in state if k not in own], path, what)
    _assign(model, state, path, what)
    return kept


def load_backbone(backbone: torch.nn.Module, path: str | Path, what: str) -> None:
    """Load a backbone's weights, every one of them, from a file of its own or from a whole segmentor's.

    Args:
        backbone: receives the weights, in place.
        path: as for `load_state_dict`. If a key begins with `backbone.`, only such keys count; what the file holds
            besides the backbone's weights (a head, a classifier) does not matter.
        what: what the backbone is, for the message.

    Raises:
        UserError: as `load_into`. mmengine would load what fits and leave the rest random.
    """
    state, _ = load_state_dict(path)
    prefix = "backbone." if any(key.startswith("backbone.") for key in state) else ""
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    _refuse_unfit(backbone, state, [], path, what)
    _assign(backbone, state, path, what)


def _assign(model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, what: str) -> None:
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors that are no plain numbers: sparse, quantised, without data
        reason = shortened(" ".join(str(error).split()))
        raise UserError(f"{path}: its weights cannot be those of {what} ({reason})") from None


def _refuse_unfit(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], unexpected: list[str], path: str | Path, what: str
) -> None:
    """`UserError` unless the weights of a file are those of a model, in name and shape."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(keys)} {name} ({shortened(', '.join(keys[:_KEYS_NAMED]))}{', ...' if len(keys) > _KEYS_NAMED else ''})"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise UserError(
            f"{path}: does not fit {what}; of its {len(state)} weights and the model's {len(own)}: "
            + "; ".join(problems)
        )


def register_safe_mmengine_loader() -> None:
    """Make every checkpoint that mmengine loads in this process go through this module. Idempotent.

    Covered: `Runner.resume`, `Runner.load_checkpoint` (`resume=True`, `load_from`), `CheckpointHook` (which
    reads a checkpoint to publish it), `init_cfg=dict(type='Pretrained')`, and mmseg's backbones and heads
    that call `CheckpointLoader` themselves: all of them ask it for a loader by the scheme of the path. The
    local scheme becomes ours; every remote one (http, s3, torchvision, open-mmlab, ...) is refused with a
    sentence.

    `Runner.resume` executes `meta['config']` (a Python config as text, written by old versions) through
    `Config.fromstring`: that key is dropped here. What mmengine unpickles besides (`mmengine.load('x.pkl')`
    for annotation files, results passed between the ranks of one run) is not reached by the stages.
    """
    from mmengine.runner import CheckpointLoader

    def load_from_local_safely(filename: str, map_location: Any = None) -> dict[str, Any]:
        content = _read(Path(filename).expanduser(), map_location)
        if not isinstance(content, dict):
            raise UserError(f"{filename}: found a {type(content).__name__} at the top level; {_EXPECTED}")
        if isinstance(content.get("meta"), dict):
            content["meta"].pop("config", None)
        return content

    def load_from_remote_refused(filename: str, map_location: Any = None) -> dict[str, Any]:
        raise UserError(f"{filename}: remote checkpoints are not loaded; download the file and pass its local path")

    remote = [prefix for prefix in CheckpointLoader._schemes if prefix != ""]
    CheckpointLoader.register_scheme(prefixes=remote, loader=load_from_remote_refused, force=True)
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local_safely, force=True)
