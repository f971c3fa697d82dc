"""What every stage stands on: settings, geometry, data sets, the cache, execution, models.

Nothing in this package knows a stage.
"""

__version__ = "0.1.0"
