"""Imports mmsegmentation without its messages about optional packages that no model here needs."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppresses warnings, log messages up to WARNING, and output to stdout."""
    disabled_before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_before)


def import_mmseg() -> None:
    """Imports mmsegmentation, registers its modules, and makes its scope the default."""
    with silence():
        for module in ("mmseg.datasets", "mmseg.models", "mmseg.engine", "mmseg.evaluation"):
            importlib.import_module(module)
    importlib.import_module("mmengine.registry").init_default_scope("mmseg")
