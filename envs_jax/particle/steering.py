"""Controllers for the scripted policies of the particle environments, which see the state."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.particle.world import distances, norm

Move = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def look_ahead(
    move: Move, position: jax.Array, velocity: jax.Array, target: jax.Array, forces: jax.Array, coast_steps: int
) -> jax.Array:
    """Index of the force that, applied for one step and followed by coasting, ends nearest to the target, (n,) int32.

    Args:
        move: (position, velocity, force) -> (position, velocity), (n, 2) each.
        position: (n, 2).
        velocity: (n, 2).
        target: (n, 2).
        forces: (A, 2), forces to choose from.
        coast_steps: number of steps without force after the first.
    """

    def distance_after(force: jax.Array) -> jax.Array:
        p, v = move(position, velocity, jnp.broadcast_to(force, position.shape))
        for _ in range(coast_steps):
            p, v = move(p, v, jnp.zeros_like(p))
        return norm(p - target)

    return jnp.argmin(jax.vmap(distance_after)(forces), axis=0).astype(jnp.int32)


def assign(position: jax.Array, landmark_position: jax.Array) -> jax.Array:
    """Assigns landmarks to agents, (n, 2) and (n, 2) -> (n,): least total distance for n <= 4, else greedy by nearest pair."""
    cost = distances(position, landmark_position)
    n = cost.shape[0]
    if n <= 4:
        permutations = np.array(list(itertools.permutations(range(n))))
        total = cost[np.arange(n)[None, :], permutations].sum(-1)
        return jnp.take(jnp.asarray(permutations), jnp.argmin(total), axis=0, mode="clip")

    def take_nearest(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        open_cost, chosen = carry
        agent, landmark = jnp.divmod(jnp.argmin(open_cost), n)
        open_cost = open_cost.at[agent, :].set(jnp.inf).at[:, landmark].set(jnp.inf)
        return (open_cost, chosen.at[agent].set(landmark)), None

    (_, chosen), _ = jax.lax.scan(take_nearest, (cost, jnp.zeros(n, jnp.int32)), None, length=n)
    return chosen
