"""The order of the training samples, as a function of the seed alone."""

from __future__ import annotations

import itertools
from collections import deque
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

    Args:
        ahead: if not 0, samples are `(index, number, coming)`: `coming` is the index of the sample that this process
            draws so many samples later, which the dataset may read meanwhile.
    """

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = None, ahead: int = 0) -> None:
        self.ahead = ahead  # before the parent's, which makes the stream
        super().__init__(dataset, shuffle, seed)

    def _indices_of_rank(self) -> Iterator[Any]:
        stream = ((index, number) for number, index in enumerate(self._infinite_indices()))
        own = itertools.islice(stream, self.rank, None, self.world_size)
        drawn = deque(itertools.islice(own, self.ahead))
        for sample in own:
            drawn.append(sample)
            yield (*drawn.popleft(), sample[0]) if self.ahead else drawn.popleft()
