"""Algorithms. Each one is a function `make(spec)` that returns an `Algorithm`, a named tuple of pure functions."""
