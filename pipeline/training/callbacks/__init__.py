"""Callbacks around training steps: seeds, guards, limits, signals, averages and measurements."""
