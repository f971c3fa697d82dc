"""Lists what is cached: artefacts, images, bytes per array."""
