"""Stage two: DAR (distortion-aware rectification) over the cached arrays; builds the ensemble."""
