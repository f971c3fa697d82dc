"""Mask generators, one a module. To add one, see CONTRIBUTING.md."""
