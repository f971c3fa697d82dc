"""What a mask generator is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from pipeline.components import Component
from pipeline.masks import MaskSet

Generate = Callable[[np.ndarray], MaskSet]


class MaskGenerator(Component):
    """Makes class-agnostic instance masks of one view."""

    @abstractmethod
    def build(self, device: str) -> Generate:
        """Loads what is needed, once a worker.

        Returns the function from a view (RGB uint8 ``(h, w, 3)``) to its mask set. Raises
        :class:`pipeline.errors.UserError` if the settings cannot work (a missing or foreign checkpoint).
        """
