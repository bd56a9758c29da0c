"""Coordination coefficients, which measure the dependence between agents: as in Eq. 14, and by influence."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.active import active_mean


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


def influence(q: jax.Array, possible: jax.Array) -> jax.Array:
    """Compute the influence of agent j on agent i: the variance of Q_i over the actions of j, all equally likely.

    It does not depend on the policy of j, and does not vanish as that policy becomes deterministic.

    Args:
        q: (n, n, B, K), [i, j] is Q_i for each action of j.
        possible: (n, B, K) bool, the actions of j that count.

    Returns:
        (n, n, B), with axes [i, j].
    """
    chex.assert_equal_shape([q[0], possible])
    mean = q.mean(-1, keepdims=True, where=possible[None])
    return jnp.square(q - mean).mean(-1, where=possible[None])


def relative_influence(influence: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Compute the influence (n, n, B) of agent j on agent i relative to the mean influence of i on itself.

    The result is 0 for i = j, and for pairs with an inactive agent.
    """
    own = active_mean(jnp.diagonal(influence).T, active)
    ratio = influence / jnp.maximum(own, jnp.finfo(own.dtype).tiny)[:, None, None]
    return jnp.where(_pairs(len(influence), active), ratio, 0.0)


def dependence_coefficients(ratio: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Compute coordination coefficients C (n, n, B) from relative influences: `C_ij = r_ij / (1 + sum over k of r_ik)`.

    C_ij is the share of agent j in the variance of Q_i, a sensitivity index (Sobol 2001). The 1 is the share of agent i itself,
    which stands for "depends on nobody". Coefficients below `threshold` are 0.
    """
    share = ratio / (1.0 + ratio.sum(1, keepdims=True))
    return jnp.where(share >= threshold, share, 0.0)


def _pairs(num_agents: int, active: jax.Array | None) -> jax.Array:
    """Pairs of different agents that are both active, bool, with the axes [i, j, row]. `active` (n, B) may be None."""
    others = jnp.asarray(~np.eye(num_agents, dtype=bool)[..., None])
    return others if active is None else others & active[:, None] & active[None]


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
    influence, others = jnp.abs(marginal_q - q[:, None]), _pairs(n, active)
    soft = jax.nn.softmax(jnp.where(others, influence, jnp.finfo(q.dtype).min), 1)
    return jnp.where(others & (soft >= threshold), soft, 0.0)
