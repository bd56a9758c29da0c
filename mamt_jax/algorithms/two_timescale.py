"""Two-timescale gradient steps (Eq. 15) as one optax transformation over a labelled tree."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import optax

OptimizerFactory = Callable[[Any], optax.GradientTransformation]


def two_timescale(
    kind: Literal["delayed", "decaying"],
    slow: tuple[OptimizerFactory, Any],
    fast: tuple[OptimizerFactory, Any],
    delay: int,
    horizon: int,
    labels: Any,
) -> optax.GradientTransformation:
    """Step leaves labelled "slow" and "fast" so that the fast ones see the slow ones as almost still.

    Args:
        kind: "delayed", the paper's practice: `delay` fast steps for each slow one, which takes the mean of their gradients.
            "decaying": rates `(1 + k / horizon)^-1` and `^-0.6` of the given ones, whose ratio falls to 0.
        slow: (optimizer of a learning rate, learning rate).
        fast: likewise.
        delay: fast steps for each slow one.
        horizon: k at which the decaying rates begin to fall.
        labels: tree of "slow" and "fast", a prefix of the parameters.

    Raises:
        ValueError: for another kind, or a delay or horizon under 1.
    """
    if kind not in ("delayed", "decaying"):
        raise ValueError(f"timescale {kind!r} is unknown; it must be delayed or decaying")
    if delay < 1 or horizon < 1:
        raise ValueError(f"epsilon_delay {delay} and decay_horizon {horizon} must be 1 or more")
    (slow_optimizer, slow_rate), (fast_optimizer, fast_rate) = slow, fast
    if kind == "delayed":
        steps = optax.MultiSteps(slow_optimizer(slow_rate), delay)
        transforms: Mapping[Any, optax.GradientTransformation] = {
            "slow": steps.gradient_transformation(),
            "fast": fast_optimizer(fast_rate),
        }
    else:
        transforms = {
            "slow": slow_optimizer(lambda k: slow_rate * (1.0 + k / horizon) ** -1.0),
            "fast": fast_optimizer(lambda k: fast_rate * jnp.power(1.0 + k / horizon, -0.6)),
        }
    return optax.partition(transforms, labels)
