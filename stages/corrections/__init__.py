"""Corrected label maps beside the pseudo-labels: what a person has changed."""
