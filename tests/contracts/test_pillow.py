"""Pillow 13.0 with libtiff 4.7: decoders print nothing.

`pipeline.data.images` filters Pillow's warnings, silences its logger, and removes the error handlers of the libtiff in
its extension module.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.models import street


def test_decoders_print_nothing(tmp_path: Path) -> None:
    """Damaged TIFFs make libtiff write to stderr, odd tags and large pictures make Pillow warn."""
    files = []
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg"):
        stream = io.BytesIO()
        Image.fromarray(street()).save(stream, "TIFF", compression=compression)
        for place in range(10, 3000, 100):
            data = bytearray(stream.getvalue())
            data[place] ^= 0x55
            files.append(tmp_path / f"{compression}{place}.tif")
            files[-1].write_bytes(data)
    Image.new("1", (12000, 10000)).save(tmp_path / "large.png")
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.core.errors import ImageError\n"
        "from pipeline.data.images import ImagePreprocessing, prepared_size, read_image\nfailed = 0\n"
        "for path in map(Path, sys.argv[1:]):\n    try:\n        read_image(path, ImagePreprocessing())\n"
        "    except ImageError:\n        failed += 1\n"
        f"prepared_size(Path({str(tmp_path / 'large.png')!r}), ImagePreprocessing())\nprint(failed)\n"
    )
    run = [sys.executable, "-W", "default", "-c", code, *map(str, files)]
    done = subprocess.run(run, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10
    assert done.stderr == ""
