"""What each command does, from start to end; `pipeline/commands.py` lists them."""
