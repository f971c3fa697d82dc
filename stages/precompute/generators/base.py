"""The base class of mask generators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.core.components import Component
from pipeline.geometry.masks import MaskSet

Generate = Callable[[Sequence[np.ndarray]], list[MaskSet]]


class MaskGenerator(Component):
    """Generates class-agnostic instance masks of views."""

    @abstractmethod
    def build(self, device: str) -> Generate:
        """Loads models and weights on `device`; called once per worker.

        Returns the function from views of one size (each RGB uint8 `(h, w, 3)`) to their mask sets, in order. It may
        raise `pipeline.core.errors.ImageError` for views that it cannot process. `build` itself raises
        `pipeline.core.errors.UserError` if the settings cannot work, for instance for want of a checkpoint.
        """
