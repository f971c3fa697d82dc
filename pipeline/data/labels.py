"""Label spaces: the classes that a model predicts or an image is labelled with, and how one maps to another.

A label space is one YAML file. The published ones are in `pipeline/data/label_spaces`; a user's own is given by path.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.core.reading import read_yaml, shown
from pipeline.core.settings import Settings, parse_settings

BUILTIN = Path(__file__).parent / "label_spaces"


class LabelSpace(Settings):
    """Named classes with a colour each; label value `i` means `classes[i]`."""

    name: str = Field(description="Name of the label space, e.g. cityscapes19.")
    classes: tuple[str, ...] = Field(description="Class names; the position is the label value.", min_length=1)
    palette: tuple[tuple[int, int, int], ...] = Field(description="RGB colour 0..255 of every class.")
    ignore_index: int = Field(255, ge=0, le=255, description="Label value of pixels that count nowhere.")
    things: tuple[str, ...] = Field((), description="The classes of countable objects (cars, persons, poles).")
    mappings: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="From another space: for each of its classes the class here, or ignore_index.",
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
            raise ValueError(f"things names no class of this space: {shown(sorted(unknown))}")
        for source, targets in self.mappings.items():
            wrong = [t for t in targets if t != self.ignore_index and not 0 <= t < n]
            if wrong:
                raise ValueError(
                    f"mapping from {shown(source)} holds {shown(wrong)}; expected 0..{n - 1} or {self.ignore_index}"
                )
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def mapping_from(self, source: LabelSpace) -> np.ndarray:
        """For each class of `source` its class here: int64 `(source.num_classes,)`, `ignore_index` if none.

        Raises `UserError` if this space knows no mapping from `source`.
        """
        if source.classes == self.classes:
            return np.arange(self.num_classes)
        if source.name not in self.mappings:
            raise UserError(
                f"label space {self.name!r} has no mapping from {source.name!r}; "
                f"found mappings from: {sorted(self.mappings) or 'none'}"
            )
        table = np.asarray(self.mappings[source.name], dtype=np.int64)
        if len(table) != source.num_classes:
            raise UserError(
                f"label space {self.name!r}: its mapping from {source.name!r} has {len(table)} entries, "
                f"expected {source.num_classes}"
            )
        return table

    def map_labels(self, labels: np.ndarray, source: LabelSpace) -> np.ndarray:
        """`labels` (uint8, any shape) of `source` as labels of this space, same shape, uint8."""
        table = np.full(256, self.ignore_index, dtype=np.uint8)
        table[: source.num_classes] = self.mapping_from(source)
        return table[labels]

    def map_probabilities(self, probabilities: np.ndarray, source: LabelSpace) -> np.ndarray:
        """Probabilities `(C_source, ...)` summed into this space's classes `(C, ...)`, renormalised.

        Classes that map to `ignore_index` are dropped. Where nothing is left, the result is uniform.
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
        """Which classes here some class of `source` maps to: bool `(num_classes,)`."""
        reachable = np.zeros(self.num_classes, dtype=bool)
        table = self.mapping_from(source)
        reachable[table[table != self.ignore_index]] = True
        return reachable

    def colours(self, labels: np.ndarray) -> np.ndarray:
        """`labels` `(H, W)` uint8 as an RGB picture `(H, W, 3)` uint8; what is no class is black."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: self.num_classes] = self.palette
        return table[labels]


@cache
def load_label_space(name_or_path: str) -> LabelSpace:
    """A built-in label space by name, or one from a YAML file by path."""
    known = sorted(path.stem for path in BUILTIN.glob("*.yaml"))
    path = BUILTIN / f"{name_or_path}.yaml" if name_or_path in known else Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"label space {shown(name_or_path)} is not known; expected one of {', '.join(known)}, or a path to a .yaml "
            "file"
        )
    return parse_settings(LabelSpace, read_yaml(path), str(path))
