"""The list that says which labels a person should look at first."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.core.atomic_files import write_text


@dataclass(frozen=True)
class RankedLabel:
    """One row: absolute paths, so that no cell begins like a formula, and figures that need no true labels.

    Attributes:
        image: the image file that the label fits.
        label: the label map.
        mean_weight: mean of `M`, 0..1.
        expected_mIoU: expected mIoU in percent, over the classes that the label has.
    """

    image: Path
    label: Path
    mean_weight: float
    expected_mIoU: float


def write_ranking(path: Path, rows: list[RankedLabel]) -> None:
    """Writes rows as CSV, the lowest expected mIoU first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(RankedLabel))
    for row in sorted(rows, key=lambda row: (row.expected_mIoU, row.label)):
        figures = f"{row.mean_weight:.4f}", f"{row.expected_mIoU:.2f}"
        writer.writerow([row.image.absolute(), row.label.absolute(), *figures])
    write_text(path, text.getvalue())
