"""Compare runs side by side, from their folders alone, without a tracking server."""
