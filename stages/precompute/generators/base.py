"""What a mask generator is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.core.components import Component
from pipeline.geometry.masks import MaskSet

Generate = Callable[[Sequence[np.ndarray]], list[MaskSet]]


class MaskGenerator(Component):
    """Makes class-agnostic instance masks of views."""

    @abstractmethod
    def build(self, device: str) -> Generate:
        """Loads what is needed, once a worker.

        Returns the function from views of one size (each RGB uint8 `(h, w, 3)`) to their mask sets, in order. It may
        raise `pipeline.core.errors.ImageError` for views that it cannot work on. Raises
        `pipeline.core.errors.UserError` if the settings cannot work (a missing or foreign checkpoint).
        """
