"""Private parts of mmengine (onedl-mmengine 0.10.12) that `pipeline.models` uses."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner

from pipeline.core.errors import UserError
from pipeline.models.weights import load_state_dict, register_safe_mmengine_loader


def test_every_scheme_has_the_safe_loader() -> None:
    """`CheckpointLoader._schemes` is the table that `load_checkpoint` looks in, and the only one."""
    register_safe_mmengine_loader()
    assert {"", "http://", "https://", "torchvision://", "open-mmlab://"} <= set(CheckpointLoader._schemes)
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {"pipeline.models.weights"}
    assert "cls._schemes[p]" in inspect.getsource(CheckpointLoader._get_checkpoint_loader)
    with pytest.raises(UserError, match="remote checkpoints are not loaded"):
        CheckpointLoader.load_checkpoint("s3://bucket/a.pth")


def test_training_checkpoints_hold_history_buffers(tmp_path: Path) -> None:
    """Why `pipeline.models.unpickling` knows more than tensors: `weights_only` alone refuses these files."""
    assert "'message_hub'" in inspect.getsource(Runner.save_checkpoint)
    hub = MessageHub("contract")
    hub.update_scalar("loss", 1.5)
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": hub.state_dict()}, tmp_path / "a.pth")
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(Exception, match="HistoryBuffer"):
            torch.load(tmp_path / "a.pth", weights_only=True)
    finally:
        torch.serialization.add_safe_globals(before)
    history = load_state_dict(tmp_path / "a.pth")[1]["log_scalars"]["loss"]
    assert type(history) is HistoryBuffer
    assert history.data[0].tolist() == [1.5]
    assert set(vars(history)) == {"_log_history", "_count_history", "max_length"}
