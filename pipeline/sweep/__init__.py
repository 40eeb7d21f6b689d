"""Many trainings of one stage with different settings: which, how many at once, and which is the best."""
