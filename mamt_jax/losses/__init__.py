"""Losses and the quantities in them: one equation, one function."""
