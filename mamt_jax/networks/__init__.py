"""Networks: each a pair of pure functions, init and apply, over an agent axis."""
