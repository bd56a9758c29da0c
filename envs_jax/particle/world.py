"""Physics of the multi-agent particle environments (Lowe et al., 2017) in their mpe2 form: disks, damping, soft contact.

Every function computes in the dtype of its positions.
"""

import jax
import jax.numpy as jnp

TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


def squared_norm(vector: jax.Array) -> jax.Array:
    """Squared Euclidean length over the last axis, (..., 2) -> (...)."""
    x, y = vector[..., 0], vector[..., 1]  # spelt out: a sum over an axis of two is five times slower on CPU
    return x * x + y * y


def norm(vector: jax.Array) -> jax.Array:
    """Euclidean length over the last axis, (..., 2) -> (...); its gradient at zero is zero, not nan."""
    square = squared_norm(vector)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def distances(positions: jax.Array, targets: jax.Array) -> jax.Array:
    """Distances from every position to every target, (n, 2) and (m, 2) -> (n, m)."""
    return norm(positions[:, None, :] - targets[None, :, :])


def contact_force(position: jax.Array, radius: float, collides: jax.Array) -> jax.Array:
    """Sum of the soft contact forces on each disk, (n, 2) -> (n, 2).

    A pair at distance r repels with 100 k log(1 + exp(-(r - 2 radius) / k)), k = 1e-3, along the line between the centres.
    Disks with the same centre exert no force on each other (the original returns nan).

    Args:
        position: (n, 2) centres.
        radius: radius of every disk.
        collides: (n, n) bool, symmetric, False on the diagonal: which pairs exert forces on each other.
    """
    offset = position[:, None, :] - position[None, :, :]
    distance = norm(offset)
    penetration = CONTACT_MARGIN * jnp.logaddexp(0.0, (2 * radius - distance) / CONTACT_MARGIN)
    strength = CONTACT_FORCE * penetration / jnp.where(distance > 0, distance, 1.0)
    strength = jnp.where(collides, strength, 0.0)
    return jnp.stack([(offset[..., axis] * strength).sum(1) for axis in (0, 1)], axis=-1)


def limit_speed(velocity: jax.Array, max_speed: float) -> jax.Array:
    """Limits the norm of each velocity, (n, 2), to `max_speed`."""
    speed = norm(velocity)
    fast = speed > max_speed
    return velocity * jnp.where(fast, max_speed / jnp.where(fast, speed, 1.0), 1.0)[..., None]


def integrate(
    position: jax.Array, velocity: jax.Array, force: jax.Array, position_first: bool, max_speed: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """One step of damped motion of unit masses, (n, 2) each -> (position, velocity).

    Args:
        position: (n, 2).
        velocity: (n, 2).
        force: (n, 2).
        position_first: whether positions change by the old velocity (mpe2) or by the new one (the original MPE).
        max_speed: largest norm of a velocity; None for no limit.
    """
    new_velocity = velocity * (1 - DAMPING) + force * TIME_STEP
    if max_speed is not None:
        new_velocity = limit_speed(new_velocity, max_speed)
    return position + TIME_STEP * (velocity if position_first else new_velocity), new_velocity
