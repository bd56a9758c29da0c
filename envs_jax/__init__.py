"""Multi-agent environments as pure JAX functions."""
