"""All runs of a folder on one page: the best of each task, curves, lineage and cost."""
