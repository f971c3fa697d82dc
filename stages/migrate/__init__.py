"""Converts images of cache format 1 into those of format 2, in place."""
