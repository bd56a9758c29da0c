"""The particle world and its scenarios."""
