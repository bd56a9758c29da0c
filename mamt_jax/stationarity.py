"""What the paper measures of a learning procedure's stationarity (Sec. 4, Fig. 5)."""

from collections.abc import Callable

import jax


def policy_divergence(
    kl: Callable[[jax.Array, jax.Array], jax.Array], current: jax.Array, previous: jax.Array, old: jax.Array
) -> dict[str, jax.Array]:
    """Each agent's mean KL in nats from its policy before the update and from its old policy.

    Args:
        kl: (parameters, other parameters) -> (n, B), of the policies' family.
        current: (n, B, P) parameters after the update.
        previous: (n, B, P) before it.
        old: (n, B, P) of the old policy that trust regions are drawn around.
    """
    return {
        "kl_consecutive": kl(current, previous).mean(1),
        "kl_old": kl(current, old).mean(1),
    }
