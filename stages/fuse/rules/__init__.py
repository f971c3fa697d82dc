"""Fusion rules, one a module. To add one, see CONTRIBUTING.md."""
