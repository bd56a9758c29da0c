"""Algorithms: each a function `make(spec) -> Algorithm`, a named tuple of pure functions."""
