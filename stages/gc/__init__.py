"""Removes what killed runs left in the cache."""
