"""Why a model answered as it did: words, probabilities, attention; as values, pictures and a page."""
