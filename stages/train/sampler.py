"""The order of the training samples, as a function of the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, repeat

import torch
from torch.utils.data import Sampler


class NumberedSampler(Sampler):
    """Draws samples without end, epoch by epoch in random order, as `(index, number)`.

    `number` counts the samples of all processes and seeds the augmentation (`PseudoLabelDataset`), which therefore does
    not depend on the number of loader processes, or on interruptions of the run.

    Args:
        size: number of images.
        seed: seed of the order.
        rank: number of this process; of `world_size` processes each draws every `world_size`-th sample.
        world_size: number of processes.
        ahead: if not 0, samples are `(index, number, next_index)`: `next_index` is the image that this process draws
            `ahead` samples later, which the dataset may read in the meantime.
    """

    def __init__(self, size: int, seed: int, *, rank: int = 0, world_size: int = 1, ahead: int = 0) -> None:
        self.size, self.seed = size, seed
        self.rank, self.world_size, self.ahead = rank, world_size, ahead
        self._first = 0

    def skip(self, num_samples: int) -> None:
        """Continues, from the next `iter()` on, after the first `num_samples` samples; mmengine resumes so."""
        self._first = num_samples

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return islice(self._samples(), self._first, None)

    def _samples(self) -> Iterator[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(self.seed)
        epochs = (torch.randperm(size, generator=generator).tolist() for size in repeat(self.size))
        stream = ((index, number) for number, index in enumerate(chain.from_iterable(epochs)))
        samples = islice(stream, self.rank, None, self.world_size)
        waiting = deque(islice(samples, self.ahead))
        for sample in samples:
            waiting.append(sample)
            yield (*waiting.popleft(), sample[0]) if self.ahead else waiting.popleft()
