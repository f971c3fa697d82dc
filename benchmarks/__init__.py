"""Benchmarks: figures that are measured in one run. A module each, listed in :mod:`benchmarks.__main__`."""
