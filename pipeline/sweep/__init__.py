"""Run many trainings of one stage with different settings, and find the best."""
