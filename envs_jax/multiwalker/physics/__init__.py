"""Physics of Multi-Walker in generalized velocities: contact detection, solver and continuous collision."""
