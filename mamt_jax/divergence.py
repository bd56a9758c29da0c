"""Divergences between policies and between transitions, which measure non-stationarity (Sec. 4, Fig. 5).

`policy_divergence` takes the outputs of policy networks. The other functions take tabular policies.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import rel_entr

from mamt_jax.active import active_mean


def policy_divergence(
    kl: Callable[[jax.Array, jax.Array], jax.Array],
    current: jax.Array,
    previous: jax.Array,
    old: jax.Array,
    active: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Compute each agent's mean KL divergence from its policy before the update and from its old policy, in nats.

    Args:
        kl: function (parameters, other parameters) -> KL divergences (n, B).
        current: (n, B, P), parameters after the update.
        previous: (n, B, P), parameters before the update.
        old: (n, B, P), parameters of the old policy, the centre of the trust region.
        active: (n, B) bool, rows that count. None counts all rows.

    Returns:
        A dict with `kl_consecutive` (n,) and `kl_old` (n,).
    """
    return {
        "kl_consecutive": active_mean(kl(current, previous), active),
        "kl_old": active_mean(kl(current, old), active),
    }


def joint_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """Compute the KL divergence between two tabular joint policies, in nats.

    Both policies are (A_1, ..., A_n), with one axis per agent. The result is a scalar.
    """
    chex.assert_equal_shape([policy, previous])
    return rel_entr(policy, previous).sum()


def own_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """Compute the KL divergence of each agent's marginal policy; both policies are (A_1, ..., A_n), the result is (n,).

    The mean-field approximation of the joint KL divergence is the sum over agents (Eq. 6). It is exact if both joint policies
    are products of their marginals (Theorem 3).
    """
    agents = range(policy.ndim)
    others = [tuple(j for j in agents if j != i) for i in agents]
    return jnp.stack([joint_divergence(policy.sum(axes), previous.sum(axes)) for axes in others])


def others_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """Compute the KL divergence of the joint policy of all agents except i, for each i.

    Both policies are (A_1, ..., A_n), the result is (n,). Its mean is at most the joint KL divergence (Theorem 2).
    """
    return jnp.stack([joint_divergence(policy.sum(i), previous.sum(i)) for i in range(policy.ndim)])


def transition_divergence(transition: jax.Array, others: jax.Array, others_next: jax.Array) -> jax.Array:
    """Compute the KL divergence between the transitions of agent i before and after the other agents change (Definition 1).

    Args:
        transition: (A_i, A_others, S), distribution of the next state.
        others: (A_others,), joint policy of the other agents.
        others_next: (A_others,), joint policy of the other agents after the change.

    Returns:
        (A_i,) in nats. The maximum over states and actions is delta of agent i.
    """
    chex.assert_rank(transition, 3)
    chex.assert_shape([others, others_next], transition.shape[1:2])
    before, after = (jnp.einsum("ios,o->is", transition, policy) for policy in (others, others_next))
    return rel_entr(before, after).sum(1)
