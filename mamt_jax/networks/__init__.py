"""Networks with an agent axis. Each one is a pair of pure functions, `init` and `apply`."""
