"""SAM's automatic masks, batched [O], see `stages.precompute.sam.batched`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pipeline.core.settings import NOT_IN_KEY
from stages.precompute.generators.base import Generate
from stages.precompute.sam.settings import AutomaticMasks

#: Prompts per call of the decoder on a CPU: its peak memory is in proportion to them.
CPU_POINTS = 8


class Sam(AutomaticMasks):
    """The masks of `SamAutomaticMaskGenerator`, in a fraction of its time outside the networks.

    `algorithm` is 2 because kind `sam` was segment_anything's generator before, which is now `sam_reference`.
    """

    algorithm: ClassVar[int] = 2

    kind: str = "sam"
    windows_per_batch: int | None = Field(
        None, ge=1, json_schema_extra=NOT_IN_KEY, description="Views per call of the encoder; null: by the device."
    )

    def with_model(self, model: Any, device: str) -> Generate:
        from stages.precompute.sam.batched import BatchedMasks

        # A GPU needs large batches. A CPU is no faster with them, and its memory is what the decoder takes.
        cuda = device.startswith("cuda")
        views_per_batch = self.windows_per_batch or (4 if cuda else 1)
        points_per_batch = self.points_per_batch or (128 if cuda else CPU_POINTS)
        return BatchedMasks(model, self, device, views_per_batch, points_per_batch)


COMPONENT = Sam
