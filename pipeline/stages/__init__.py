"""The stages: one module or package for each command, listed in `pipeline/commands.py`."""
