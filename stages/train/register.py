"""Importing this module registers segmentor, transforms and hooks with mmseg's registries."""

from stages.train import hooks, segmentor, transforms

__all__ = ["hooks", "segmentor", "transforms"]
