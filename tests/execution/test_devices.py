"""Devices, as far as a machine without a GPU can test them."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.execution.devices import inference_context, pick_device


def test_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    assert pick_device("cpu") == "cpu"
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        pick_device("cuda")
    with pytest.raises(UserError, match="found 'gpu', expected auto, cpu or cuda"):
        pick_device("gpu")


def test_each_worker_of_a_cluster_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = []
    for name in (0, 1, 2, "1", "tcp://127.0.0.1:1234"):
        worker = types.SimpleNamespace(get_worker=lambda name=name: types.SimpleNamespace(name=name))
        monkeypatch.setitem(sys.modules, "distributed", worker)
        found.append(pick_device("auto"))
    assert found == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda"]
    monkeypatch.delitem(sys.modules, "distributed")
    assert pick_device("auto") == "cuda"


def test_models_run_in_the_precision() -> None:
    a = torch.ones(2, 2)
    with inference_context("cpu", "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with inference_context("cpu"):
        assert (a @ a).dtype == torch.float32


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush subnormal numbers")
@pytest.mark.parametrize("before", [False, True])
def test_subnormal_activations_are_zero_within_the_context_alone(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with inference_context("cpu"):
            assert torch.tensor(1e-30) * 1e-10 == 0
        assert (torch.tensor(1e-30) * 1e-10 == 0) == before
        with inference_context("cuda"):
            assert (torch.tensor(1e-30) * 1e-10 == 0) == before
    finally:
        torch.set_flush_denormal(False)
