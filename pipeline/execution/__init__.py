"""Runs one task over many images: in this process, in threads, on dask; picks devices."""
