"""Files that come with this project, found by name: settings, manifests, mmsegmentation configs.

Their folders (`configs`, `data_manifests`, `mmseg_configs`) are siblings of the package `pipeline`, in a checkout and
in an installed wheel alike.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.reading import is_file, short_repr

#: The folder that holds the packages and the folders of files.
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def project_file_names(folder: str) -> list[str]:
    """Names of the files in a folder below `PROJECT_ROOT`, without suffix, sorted."""
    return sorted(path.stem for path in (PROJECT_ROOT / folder).glob("*.*") if path.suffix in (".yaml", ".py"))


def find_project_file(folder: str, path: str | Path, option: str) -> Path:
    """Returns `path` if it is a file, otherwise the file of this name (without suffix) in `folder`, e.g. `configs`.

    Raises `UserError` if there is neither, which begins with `option`, the option or setting that gave `path`, and
    lists the names.
    """
    if is_file(path):
        return Path(path)
    names = project_file_names(folder)
    if str(path) in names:
        return next((PROJECT_ROOT / folder).glob(f"{path}.*"))
    raise UserError(f"{option}: found {short_repr(str(path))}; expected a file or one of {', '.join(names)}")
