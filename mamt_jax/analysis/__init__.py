"""Reads runs from their folders, computes statistics over seeds, and draws figures."""
