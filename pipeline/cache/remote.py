"""The cache on an object store, or on any other file system that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from pipeline.cache.storage import Entry, Storage
from pipeline.core.atomic_files import temporary_name
from pipeline.core.errors import UserError
from pipeline.core.reading import error_text

#: Files that are requested at once.
_BATCH = 256

#: File systems of fsspec without folders; creating a folder there may create the bucket.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}

_ARCHIVES = ("zip:", "tar:", "libarchive:")


class RemoteStorage(Storage):
    """Any fsspec file system; an object appears complete when its upload ends.

    Each file system raises errors of its own. A missing file is a `FileNotFoundError`. Any other error affects every
    image: it becomes a `UserError`, which ends the run. The file systems themselves repeat failed requests.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        if url.startswith(_ARCHIVES):
            raise UserError(f"cache {url}: an archive cannot be written file by file; expected it unpacked")
        try:
            # s3fs requests the size of every file first to read large ones in parts at once; ours are small
            options = {"max_concurrency": 1} if url.startswith(("s3:", "s3a:")) else {}
            self.fs, self.root = fsspec.core.url_to_fs(url, **options)
        except Exception as error:
            expected = "expected a folder or a URL that fsspec can open"
            raise UserError(f"cache {url}: {error_text(error)}; {expected}") from None
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self._has_folders = not protocols & _OBJECT_STORES

    def _path(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}".rstrip("/")

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turns errors of the file system into `UserError`, except for a missing file."""
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            raise UserError(f"cache {self.url}: {error_text(error)}; nothing finished is lost") from None

    def read(self, path: str) -> bytes:
        with self._user_errors():
            return bytes(self.fs.cat_file(self._path(path)))

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        remaining = iter(paths)
        while batch := list(islice(remaining, _BATCH)):
            names = [self._path(path) for path in batch]
            with self._user_errors():
                files = {name.lstrip("/"): data for name, data in self.fs.cat(names, on_error="return").items()}
            for name in names:
                data = files.get(name.lstrip("/"))
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    with self._user_errors():
                        raise data
                yield data if isinstance(data, bytes) else None

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.replace(path, data)
        return True

    def replace(self, path: str, data: bytes) -> None:
        try:
            with self._user_errors():
                if self._has_folders:
                    self.fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)
                self.fs.pipe_file(self._path(path), data)
        except FileNotFoundError as error:  # no bucket
            raise UserError(f"cache {self.url}: cannot be written ({error_text(error)})") from None

    def exists(self, path: str) -> bool:
        self.fs.invalidate_cache()
        with suppress(FileNotFoundError), self._user_errors():
            return bool(self.fs.info(self._path(path))["type"] == "file")  # `isfile` returns False on any error
        return False

    def entries(self, path: str) -> Iterator[Entry]:
        self.fs.invalidate_cache()
        folder, listing = self._path(path).lstrip("/"), []
        with suppress(FileNotFoundError), self._user_errors():
            listing = self.fs.ls(self._path(path), detail=True)
        for info in listing:
            name = info["name"].rstrip("/").lstrip("/")
            if name != folder:  # an object store may list the folder's own placeholder
                yield Entry(name.rsplit("/", 1)[-1], info["type"] == "directory")

    def sizes(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        root, files = self._path(path), {}
        with suppress(FileNotFoundError), self._user_errors():
            files = self.fs.find(root, detail=True)
        return {name.lstrip("/")[len(root.lstrip("/")) + 1 :]: int(info["size"]) for name, info in files.items()}

    def seconds_since_change(self, path: str) -> float:
        import datetime

        now = datetime.datetime.now(datetime.UTC)
        try:
            with self._user_errors():
                times = [self.fs.modified(name) for name in self.fs.find(self._path(path))]
        except FileNotFoundError:  # another process removed it
            return 0.0
        times = [time if time.tzinfo else time.replace(tzinfo=datetime.UTC) for time in times]
        return (now - max(times)).total_seconds() if times else float("inf")

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError), self._user_errors():
            self.fs.rm(self._path(path), recursive=True)

    def delete_file(self, path: str) -> None:
        with suppress(FileNotFoundError), self._user_errors():
            self.fs.rm_file(self._path(path))

    def check_writable(self) -> None:
        if self.url.startswith("memory:"):
            problem = "memory ends with the process, and the results with it"
            raise UserError(f"cache {self.url}: {problem}; expected a folder or a URL that other processes can open")
        probe = temporary_name()
        self.replace(probe, b"")
        self.delete_file(probe)
