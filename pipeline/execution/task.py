"""Work on single images: the task that sets it up, and the outcome of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.manifests import ImageRecord

#: Figures of a finished image.
Summary = dict[str, Any]

#: Work on one image: a plain function, or a generator function that yields after reading and after computing.
Work = Callable[[ImageRecord], Summary | Generator[None, None, Summary]]

#: The steps of a generator function; those of different images overlap.
STEPS = ("reading", "computing", "writing")


class ImageTask(ABC):
    """Work on single images. Instances are small, picklable settings."""

    @abstractmethod
    def setup(self) -> Work:
        """Loads models, once in each process, and returns the work on an image."""

    @abstractmethod
    def record_failure(self, image_id: str, reason: str) -> None:
        """Records why an image failed."""


@dataclass(frozen=True)
class Outcome:
    """Result of one image.

    Attributes:
        id: the image.
        seconds: time from its first step to its last, waiting included.
        summary: what the work returned.
        failure: the reason if the image failed.
        steps: seconds of each step, without waiting.
    """

    id: str
    seconds: float
    summary: Summary = field(default_factory=dict)
    failure: str | None = None
    steps: tuple[float, ...] = ()
