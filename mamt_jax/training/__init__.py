"""Training of an experiment into a folder of results."""
