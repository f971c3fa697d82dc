"""Importing mmsegmentation without its remarks on optional packages that no model here needs."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings


def import_mmseg() -> None:
    """Imports mmsegmentation, registers its modules, and makes its scope the default."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for module in ("mmseg.datasets", "mmseg.models", "mmseg.engine", "mmseg.evaluation"):
            importlib.import_module(module)
    importlib.import_module("mmengine.registry").init_default_scope("mmseg")
