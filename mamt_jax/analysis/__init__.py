"""Runs read from their folders, statistics over seeds, and figures."""
