"""How much agents depend on each other (Eq. 14)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def marginal_values(swapped_q: jax.Array, probability: jax.Array) -> jax.Array:
    """Q_i without j's action, `sum_a_j pi_j(a_j|o_j) Q_i(o, (a_-j, a_j))`; (n, n, B, K), pi_j (n, B, K) -> (n, n, B)."""
    chex.assert_equal_shape([swapped_q[0], probability])
    return (swapped_q * probability[None]).sum(-1)


def coordination_coefficients(
    marginal_q: jax.Array, q: jax.Array, threshold: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """Eq. 14: `C_ij = softmax over j != i of |Q_i without a_j - Q_i(a)|`, 0 where under `threshold`; C_ii = 0.

    Agents that do not act depend on nobody, and nobody depends on them.

    Args:
        marginal_q: (n, n, B), [i, j].
        q: (n, B), Q_i of the joint action.
        threshold: Table 1's delta.
        active: (n, B), who acts; None: all.

    Returns:
        (n, n, B).
    """
    n, _, batch_size = marginal_q.shape
    chex.assert_shape(q, (n, batch_size))
    influence = jnp.abs(marginal_q - q[:, None])
    others = jnp.asarray(~np.eye(n, dtype=bool)[..., None])
    if active is not None:
        others = others & active[:, None] & active[None]
    soft = jax.nn.softmax(jnp.where(others, influence, jnp.finfo(q.dtype).min), 1)
    return jnp.where(others & (soft >= threshold), soft, 0.0)
