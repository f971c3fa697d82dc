"""Reads `.pt` and `.pth` files without executing them.

These files are pickles, and unpickling runs code. `torch.load(weights_only=True)` calls only allow-listed functions.
Checkpoints of mmengine hold more than tensors: the `HistoryBuffer`s of its message hub, which hold numpy arrays.
mmengine allow-lists the real `getattr`, `HistoryBuffer`, `numpy.ndarray` and `numpy.dtype` for them. But `getattr`
reaches any attribute of anything allow-listed, `HistoryBuffer.__setstate__` installs functions that are called later,
and `dtype` and `ndarray` accept states that reinterpret bytes as Python objects.

Here those names map to placeholders, which keep bytes, numbers and names. They look up no attribute, import nothing and
call nothing that the file gives them. Real arrays and buffers are made from them afterwards.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

_torch_load_lock = threading.Lock()


def read_pickle(path: Path, map_location: Any = "cpu") -> Any:
    """Returns the content of a local file as plain data; `map_location` is that of `torch.load`.

    Raises exceptions of various classes if the file is unreadable, or names something that is not allow-listed.
    """
    import torch

    with _torch_load_lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(_placeholders()):
                return _restore(torch.load(path, map_location=map_location, weights_only=True))
        finally:
            torch.serialization.add_safe_globals(before)


class _DType:
    """Replaces `numpy.dtype`: the name of a plain scalar type."""

    def __init__(self, name: str = "", *_: object) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else str(name)
        if not re.fullmatch(r"[<>|=]?[biufcSU]\d{1,4}|bool", text):
            raise ValueError(f"numpy dtype {text!r}")
        self.name = text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">") and self.name[0] not in "<>|=":
            self.name = order + self.name


def _scalars(dtype: _DType, raw: bytes) -> Any:
    import numpy as np

    if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
        raise ValueError("numpy values of Python objects")
    return np.frombuffer(raw, dtype=np.dtype(dtype.name))


class _Array:
    """Replaces `numpy.ndarray`: the raw bytes, a plain scalar type and a shape."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _scalars(dtype, raw).reshape(shape, order="F" if fortran else "C").copy()


class _History:
    """Replaces mmengine's `HistoryBuffer`: two arrays and a length. Functions in its state are dropped."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.arrays = state["_log_history"], state["_count_history"]
        self.max_length = int(state.get("max_length", 1_000_000))


def _placeholders() -> list[Any]:
    """Returns the allow-list: replacements and the names that they are given for."""
    names: list[Any] = [
        (_DType, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
        (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (lambda *_: None, "builtins.getattr"),  # `HistoryBuffer` pickles references to its own methods
        (lambda *_: b"", "builtins.bytes"),  # empty bytes are pickled as `bytes()`
    ]
    for core in ("numpy._core.multiarray", "numpy.core.multiarray"):
        # the class that numpy's `_reconstruct` is given is ignored
        names += [(lambda *_: _Array(), f"{core}._reconstruct"), (lambda *a: _scalars(*a)[0], f"{core}.scalar")]
    return names


def _restore(value: Any) -> Any:
    """Replaces placeholders by arrays and history buffers, in place where possible."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _History):
        from mmengine.logging import HistoryBuffer

        return HistoryBuffer(*(_restore(array) for array in value.arrays), value.max_length)
    if isinstance(value, dict):
        for key in value:
            value[key] = _restore(value[key])
    elif isinstance(value, list):
        value[:] = [_restore(item) for item in value]
    elif type(value) is tuple:
        return tuple(_restore(item) for item in value)
    return value
