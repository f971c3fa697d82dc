"""A folder of panoramas in, label PNGs and overlays out."""
