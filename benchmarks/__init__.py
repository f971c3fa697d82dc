"""Benchmarks: figures that are measured in one run, each in a module of its own, named in :mod:`benchmarks.__main__`."""
