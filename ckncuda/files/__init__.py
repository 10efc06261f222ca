"""Formats of our own on disk: files that appear whole, and the model file."""
