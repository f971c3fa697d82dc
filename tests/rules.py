"""A user's own fusion rule, in a file of its own: named in settings as `tests.rules:Extra`."""

from __future__ import annotations

from stages.fuse.rules.base import Ensemble, FusionInput
from stages.fuse.rules.ta import Ta


class Extra(Ta):
    """Adds an array to what `ta` gives."""

    kind: str = "tests.rules:Extra"
    value: int = 7

    def __call__(self, inputs: FusionInput) -> Ensemble:
        ensemble = super().__call__(inputs)
        return Ensemble(ensemble.label, ensemble.gate, ensemble.weight, {"extra": ensemble.label * 0 + self.value})
