"""Data sets: manifests, images, label spaces, training samples, pictures."""
