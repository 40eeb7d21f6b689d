"""Reuse finished runs of stages: compare their inputs, decide which steps need to run, and say why."""
