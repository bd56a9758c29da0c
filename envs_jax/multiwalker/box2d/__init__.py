"""Solver in the order of Box2D, which reproduces the velocities of the original."""
