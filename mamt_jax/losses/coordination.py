"""Coordination coefficients, which measure the dependence between agents (Eq. 14)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def marginal_values(swapped_q: jax.Array, probability: jax.Array) -> jax.Array:
    """Average the action of j out of Q_i: `sum_a_j pi_j(a_j|o_j) Q_i(o, (a_-j, a_j))`.

    Args:
        swapped_q: (n, n, B, K), [i, j] is Q_i for each candidate action of j.
        probability: (n, B, K), pi_j of each candidate action.

    Returns:
        (n, n, B), with axes [i, j].
    """
    chex.assert_equal_shape([swapped_q[0], probability])
    return (swapped_q * probability[None]).sum(-1)


def coordination_coefficients(
    marginal_q: jax.Array, q: jax.Array, threshold: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """Compute the coordination coefficients: `C_ij = softmax over j != i of |Q_i without a_j - Q_i(o, a)|` (Eq. 14).

    Coefficients below `threshold` are 0, and C_ii = 0. Coefficients of pairs with an inactive agent are 0.

    Args:
        marginal_q: (n, n, B), [i, j] is Q_i with the action of j averaged out.
        q: (n, B), Q_i of the joint action.
        threshold: delta of Table 1.
        active: (n, B) bool, active agents. None means that all are active.

    Returns:
        C (n, n, B), with axes [i, j].
    """
    n, _, batch_size = marginal_q.shape
    chex.assert_shape(q, (n, batch_size))
    influence = jnp.abs(marginal_q - q[:, None])
    others = jnp.asarray(~np.eye(n, dtype=bool)[..., None])
    if active is not None:
        others = others & active[:, None] & active[None]
    soft = jax.nn.softmax(jnp.where(others, influence, jnp.finfo(q.dtype).min), 1)
    return jnp.where(others & (soft >= threshold), soft, 0.0)
