"""Running one task over many images: in this process, in threads, on dask; devices."""
