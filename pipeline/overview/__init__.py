"""Everything in the folder of runs on one page: by task, the best of each, curves, lineage, cost."""
