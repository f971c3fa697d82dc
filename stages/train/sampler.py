"""The order of the training samples, as a function of the seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmseg.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class NumberedSampler(InfiniteSampler):
    """mmengine's `InfiniteSampler`, whose samples carry their number in the stream: `(index, number)`.

    The number seeds a sample's augmentation (`PseudoLabelDataset`), so that it does not depend on how many loader
    processes there are, or on whether the run was stopped in between. Of `n` processes each draws every n-th sample of
    one stream.
    """

    def _indices_of_rank(self) -> Iterator[Any]:
        stream = ((index, number) for number, index in enumerate(self._infinite_indices()))
        yield from itertools.islice(stream, self.rank, None, self.world_size)
