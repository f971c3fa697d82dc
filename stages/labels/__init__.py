"""The pseudo-labels of the cache as label PNGs that any other framework can train on."""
