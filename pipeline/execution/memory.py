"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

#: Parameters of glibc's `mallopt`, see malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes this process keep large freed blocks for later use, instead of returning them to the kernel.

    By default, glibc maps every large tensor anew, and the kernel zeroes its pages each time. A training on a CPU
    allocates tensors of the same sizes in every step and would spend a large part of its time so.

    Returns:
        Whether it is done; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 (other C libraries have a mallopt of another meaning)
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
