"""Prints settings."""
