"""Particle environments, Spread and Rover-Tower, and their physics."""
