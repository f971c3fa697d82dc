"""The pseudo-labels of the cache as label PNGs, for training with any other framework."""
