"""Foundations of all other packages: settings, components, errors, files, progress."""
