"""The cache of whole stages: what a run was made from, which steps need to run, and why."""
