"""Divergences that measure the stationarity of learning (Sec. 4, Fig. 5), also for tabular games."""

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
    """Each agent's mean KL in nats from its policy before the update and from its old policy.

    Args:
        kl: (parameters, other parameters) -> (n, B), of the policies' family.
        current: (n, B, P) parameters after the update.
        previous: (n, B, P) before it.
        old: (n, B, P) of the old policy that trust regions are drawn around.
        active: (n, B), the rows that count; None: all.
    """
    return {
        "kl_consecutive": active_mean(kl(current, previous), active),
        "kl_old": active_mean(kl(current, old), active),
    }


def joint_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """KL in nats between two tabular joint policies; both (A_1, ..., A_n), an axis an agent -> ()."""
    chex.assert_equal_shape([policy, previous])
    return rel_entr(policy, previous).sum()


def own_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """KL of every agent's own marginal, whose sum the mean-field approximation takes for the joint KL (Eq. 6).

    Theorem 3: where both joint policies are products of their marginals, it is. (A_1, ..., A_n) twice -> (n,).
    """
    agents = range(policy.ndim)
    others = [tuple(j for j in agents if j != i) for i in agents]
    return jnp.stack([joint_divergence(policy.sum(axes), previous.sum(axes)) for axes in others])


def others_divergence(policy: jax.Array, previous: jax.Array) -> jax.Array:
    """KL of the marginal of all agents but i, for every i, whose mean Theorem 2 bounds by the joint KL.

    (A_1, ..., A_n) twice -> (n,).
    """
    return jnp.stack([joint_divergence(policy.sum(i), previous.sum(i)) for i in range(policy.ndim)])


def transition_divergence(transition: jax.Array, others: jax.Array, others_next: jax.Array) -> jax.Array:
    """Definition 1's KL of what agent i sees of the environment before and after the others change.

    Args:
        transition: (A_i, A_others, S), the law of the next state.
        others: (A_others,), the others' joint policy.
        others_next: (A_others,), what it changes to.

    Returns:
        (A_i,) in nats; the largest over states and actions is agent i's delta.
    """
    chex.assert_rank(transition, 3)
    chex.assert_shape([others, others_next], transition.shape[1:2])
    before, after = (jnp.einsum("ios,o->is", transition, policy) for policy in (others, others_next))
    return rel_entr(before, after).sum(1)
