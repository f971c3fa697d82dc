"""Sweeps what killed runs left in the cache."""
