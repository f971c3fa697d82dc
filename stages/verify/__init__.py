"""Re-hashes images and cached arrays."""
