"""Explanations of predictions by words, token probabilities and attention: as values, pictures and a page."""
