"""Losses and the quantities in them. Each function implements one equation."""
