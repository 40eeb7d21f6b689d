"""Runs side by side, from their folders alone: no server is asked."""
