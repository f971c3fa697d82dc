"""Checks the installation; computes nothing."""
