"""One static HTML page: tables of results files, panoramas with their layers, training curves, cache and settings."""
