"""Checks the cache against its digests, and removes what is damaged."""
