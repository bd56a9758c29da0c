"""Training: from an experiment to a folder of results."""
