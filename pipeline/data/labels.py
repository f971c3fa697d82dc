"""Label spaces: the classes of a model or of labels, and the mapping from one space to another.

A label space is one YAML file: a published one in `pipeline/data/label_spaces`, or the user's own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.core.reading import read_yaml, short_repr
from pipeline.core.settings import Settings, parse_settings

BUILTIN = Path(__file__).parent / "label_spaces"


class LabelSpace(Settings):
    """Named classes with a colour each; label value `i` is `classes[i]`."""

    name: str = Field(description="Name of the label space, e.g. cityscapes19.")
    classes: tuple[str, ...] = Field(description="Class names; the position is the label value.", min_length=1)
    palette: tuple[tuple[int, int, int], ...] = Field(description="RGB colour 0..255 of every class.")
    ignore_index: int = Field(255, ge=0, le=255, description="Label value of pixels without a class.")
    things: tuple[str, ...] = Field((), description="Classes of countable objects (cars, persons, poles).")
    mappings: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Name of another space: for each of its classes the class here, or ignore_index.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> LabelSpace:
        n = len(self.classes)
        if len(set(self.classes)) != n:
            raise ValueError("expected class names that differ")
        if len(self.palette) != n:
            raise ValueError(f"found {len(self.palette)} palette colours, expected {n}, one for each class")
        if any(not 0 <= value <= 255 for colour in self.palette for value in colour):
            raise ValueError("expected palette values from 0 to 255")
        if self.ignore_index < n:
            raise ValueError(f"ignore_index {self.ignore_index} is also a class; expected {n} or more")
        if unknown := set(self.things) - set(self.classes):
            raise ValueError(f"things names no class of this space: {short_repr(sorted(unknown))}")
        values = {self.ignore_index, *range(n)}
        for source, targets in self.mappings.items():
            if wrong := [target for target in targets if target not in values]:
                mapping = f"mapping from {short_repr(source)}"
                raise ValueError(f"{mapping} holds {short_repr(wrong)}; expected 0..{n - 1} or {self.ignore_index}")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def mapping_from(self, source: LabelSpace) -> np.ndarray:
        """Returns the class here of each class of `source`, or `ignore_index`: int64 `(source.num_classes,)`.

        Raises `UserError` if this space has no mapping from `source`, or one of another length.
        """
        if source.classes == self.classes:
            return np.arange(self.num_classes)
        if source.name not in self.mappings:
            names = sorted(self.mappings) or "none"
            raise UserError(f"label space {self.name!r} has no mapping from {source.name!r}; found those from: {names}")
        table = np.asarray(self.mappings[source.name], dtype=np.int64)
        if len(table) != source.num_classes:
            lengths = f"has {len(table)} entries, expected {source.num_classes}"
            raise UserError(f"label space {self.name!r}: its mapping from {source.name!r} {lengths}")
        return table

    def map_labels(self, labels: np.ndarray, source: LabelSpace) -> np.ndarray:
        """Maps labels of `source` to this space: uint8 of any shape to uint8 of the same shape."""
        table = np.full(256, self.ignore_index, dtype=np.uint8)
        table[: source.num_classes] = self.mapping_from(source)
        return table[labels]

    def map_probabilities(self, probabilities: np.ndarray, source: LabelSpace) -> np.ndarray:
        """Sums probabilities `(C_source, ...)` into the classes of this space, `(C, ...)`, and renormalises.

        Classes that map to `ignore_index` are dropped. Where no probability remains, the result is uniform.
        """
        table = self.mapping_from(source)
        if source.classes == self.classes:
            return probabilities
        mapped = np.zeros((self.num_classes, *probabilities.shape[1:]), dtype=probabilities.dtype)
        for index, target in enumerate(table):
            if target != self.ignore_index:
                mapped[target] += probabilities[index]
        total = mapped.sum(axis=0, keepdims=True)
        uniform = np.asarray(1 / self.num_classes, dtype=mapped.dtype)
        return np.where(total > 0, mapped / np.where(total > 0, total, 1), uniform)

    def reachable_from(self, source: LabelSpace) -> np.ndarray:
        """Returns which classes of this space some class of `source` maps to: bool `(num_classes,)`."""
        return np.isin(np.arange(self.num_classes), self.mapping_from(source))

    @property
    def colour_table(self) -> np.ndarray:
        """Colour of every label value: uint8 `(256, 3)` RGB; values without a class are black."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: self.num_classes] = self.palette
        return table

    def colours(self, labels: np.ndarray) -> np.ndarray:
        """Returns the colours of `labels`, uint8 `(H, W)`, as uint8 `(H, W, 3)` RGB."""
        return self.colour_table[labels]


@cache
def load_label_space(name_or_path: str) -> LabelSpace:
    """Returns a built-in label space by name, or reads one from a YAML file. Raises `UserError`."""
    names = sorted(path.stem for path in BUILTIN.glob("*.yaml"))
    path = BUILTIN / f"{name_or_path}.yaml" if name_or_path in names else Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        label_space = f"label space {short_repr(name_or_path)}"
        raise UserError(f"{label_space} is not known; expected one of {', '.join(names)}, or a path to a .yaml file")
    return parse_settings(LabelSpace, read_yaml(path), str(path))
