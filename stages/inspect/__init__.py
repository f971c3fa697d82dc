"""What the cache holds: artefacts, images, bytes per array."""
