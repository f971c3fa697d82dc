"""zarr's local store without hard links: some network and FUSE file systems have none. Imported where zarr is."""

from __future__ import annotations

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


class UnsharedLocalStore(LocalStore):
    """A folder that no other writer has (an attempt's), so that to look first and write then is enough."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """zarr links a temporary file into place here, where another writer might be first."""
        if not await self.exists(key):
            await self.set(key, value)
