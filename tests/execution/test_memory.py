"""Freed memory is kept: what is allocated again costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from pipeline.execution.devices import keep_freed_memory

CODE = """
import resource, sys
from pipeline.execution.devices import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
block = bytes(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = None
    block = bytearray(b"x") * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_blocks_that_are_allocated_again_cause_few_page_faults() -> None:
    assert page_faults("keep") < page_faults("default") / 4


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
