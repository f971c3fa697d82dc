"""Stage two: DAR (distortion-aware rectification) [P] of the cached arrays; computes the ensemble."""
