"""Predicts image files or folders with a student: label PNGs and overlays."""
