"""A policy that sees the state: walkers stand on springs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker.body import HULL, single
from envs_jax.multiwalker.joints import CHILD, PARENT, joint_angles

HIP, KNEE = 0.1, -0.6


def stride(key: jax.Array, state: Any) -> jax.Array:
    """(n, 4): hips and knees are driven to where a walker stands, bent against the hull's tilt."""
    del key
    pose, velocity = state.world.pose, state.world.velocity
    angle = joint_angles(pose[2][..., None])[..., 0]
    speed = velocity[2][np.array(CHILD)] - velocity[2][np.array(PARENT)]
    target = single([HIP, KNEE] * 2)[:, None]
    drive = single([0.9, 4.0] * 2)[:, None] * (target - angle) - 0.25 * speed
    hull = single([1, 0, 1, 0])[:, None] * (0.9 * pose[2, HULL] + 1.5 * velocity[2, HULL])[None]
    sink = single([0, 15, 0, 15])[:, None] * velocity[1, HULL][None]
    return jnp.clip(0.5 * (drive + hull - sink), -1.0, 1.0).T
