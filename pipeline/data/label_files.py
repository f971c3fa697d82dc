"""Files of label maps: their names, and the digests that tell a corrected one from an unchanged one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.atomic_files import write_text
from pipeline.core.reading import open_file

IMAGE_ENDING, LABEL_ENDING = "_leftImg8bit", "_gtFine"  #: Suffixes of Cityscapes for images and label maps.
LABEL_SUFFIX = "_labelTrainIds.png"
DIGESTS = "digests.txt"  #: In a folder of pseudo-labels: a line `<digest> <label file>` for each.


def label_file(image_id: str) -> str:
    """Returns `a/b_labelTrainIds.png` for `a/b`, and `b_gtFine_labelTrainIds.png` for `b_leftImg8bit`."""
    name = image_id.removesuffix(IMAGE_ENDING)
    return f"{name}{LABEL_ENDING if name != image_id else ''}{LABEL_SUFFIX}"


def label_digest(label: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that identify the pixels of a label map, uint8 `(H, W)`, in any file."""
    shape = f"{label.shape[0]}x{label.shape[1]} ".encode()
    return hashlib.sha256(shape + np.ascontiguousarray(label, dtype=np.uint8).tobytes()).hexdigest()[:16]


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Writes `DIGESTS` of a folder of pseudo-labels; `digests` are by image id."""
    lines = [f"{digest} {label_file(image_id)}\n" for image_id, digest in sorted(digests.items())]
    write_text(folder / DIGESTS, "".join(lines))


def read_digests(folder: Path) -> dict[str, str]:
    """Returns the digest of each label file when it was written; none if the folder has no `DIGESTS`."""
    try:
        with open_file(folder / DIGESTS) as stream:
            lines = [line.decode(errors="replace").rstrip("\n") for line in stream]
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition(" ") for line in lines)}
