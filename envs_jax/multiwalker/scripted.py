"""Scripted policy of Multi-Walker, which sees the state: walkers stand with their legs apart."""

from typing import Any

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.model import HULL
from envs_jax.multiwalker.physics.articulation import joint_angles

MIDDLE, SPREAD = 0.15, 1.5
KNEE, STIFFNESS = -0.8, 3.5
TILT, SPIN, SINK = 0.75, 0.875, 5.5


def stand(key: jax.Array, state: Any) -> jax.Array:
    """Actions (n, 4). Hips turn away from `MIDDLE`, which spreads the legs, and against tilt. Knees act as damped springs."""
    del key
    pose, velocity = state.world.pose, state.world.velocity
    angle = joint_angles(pose[2][..., None])[..., 0]
    hips, knees = angle[::2], angle[1::2]
    upright = TILT * pose[2, HULL] + SPIN * velocity[2, HULL]
    spread = SPREAD * (hips - MIDDLE) + upright[None]
    spring = STIFFNESS * (KNEE - knees) - SINK * velocity[1, HULL][None]
    return jnp.clip(jnp.stack([spread, spring], 1).reshape(4, -1), -1.0, 1.0).T
