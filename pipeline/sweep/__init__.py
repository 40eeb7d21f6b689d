"""Sweeps: train with different settings, and find the best."""
