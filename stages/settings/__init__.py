"""Shows settings; computes nothing."""
