"""What every stage stands on: settings, manifests, label spaces, views, mask sets, the cache, the executor.

Nothing in this package knows a stage by import; stages are found by name (see :mod:`pipeline.cli`).
"""

__version__ = "0.1.0"
