"""Importing this registers segmentor, dataset, sampler, transforms and hooks with mmseg's registries."""

from stages.train import dataset, hooks, sampler, segmentor, transforms

__all__ = ["dataset", "hooks", "sampler", "segmentor", "transforms"]
