"""SAM's automatic masks, batched (ours, see `stages.precompute.sam.batched`)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pipeline.core.settings import NOT_IN_KEY
from stages.precompute.generators.base import Generate
from stages.precompute.sam.settings import AutomaticMasks

#: Points the decoder sees at a time on a CPU: its peak memory is in proportion to them.
CPU_POINTS = 8


class Sam(AutomaticMasks):
    """The masks of `SamAutomaticMaskGenerator`, in a fraction of its time besides the networks.

    Its second algorithm: the first was segment_anything's own generator, which is now `sam_reference`.
    """

    algorithm: ClassVar[int] = 2

    kind: str = "sam"
    windows_per_batch: int | None = Field(
        None,
        ge=1,
        json_schema_extra=NOT_IN_KEY,
        description="Views the encoder sees at a time; null: as many as suit the device.",
    )

    def with_model(self, model: Any, device: str) -> Generate:
        from stages.precompute.sam.batched import BatchedMasks

        # a GPU needs much to do at a time, a CPU is no faster for it and its memory is what the decoder takes
        cuda = device.startswith("cuda")
        windows = self.windows_per_batch or (4 if cuda else 1)
        points = self.points_per_batch or (128 if cuda else CPU_POINTS)
        return BatchedMasks(model, self, device, windows, points)


COMPONENT = Sam
