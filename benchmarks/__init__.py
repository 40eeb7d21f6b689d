"""Measurements of speed and quality: each one command that prints one line of JSON."""
