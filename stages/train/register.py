"""Importing this registers segmentor, dataset, transforms and hook with mmseg's registries."""

from stages.train import dataset, hooks, segmentor, transforms

__all__ = ["dataset", "hooks", "segmentor", "transforms"]
