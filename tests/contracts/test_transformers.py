"""What `stages.precompute.teachers.huggingface` expects of transformers (5.23)."""

from __future__ import annotations

import inspect

import pytest

transformers = pytest.importorskip("transformers")


def test_semantic_segmentation_models_take_pixel_values() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

    models = list(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.values())
    assert len(models) > 5
    for model in models:
        assert "pixel_values" in inspect.signature(model.forward).parameters, model


def test_downloads_stop_by_a_constant() -> None:
    """`is_offline_mode` reads `constants.HF_HUB_OFFLINE` when it is called."""
    import huggingface_hub
    from huggingface_hub import constants

    from stages.precompute.teachers.huggingface import _offline

    online = not constants.HF_HUB_OFFLINE
    with _offline():
        assert huggingface_hub.is_offline_mode()
    assert online != constants.HF_HUB_OFFLINE
