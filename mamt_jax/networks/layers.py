"""Layers that all networks use."""

from collections.abc import Callable

import flax.linen as nn
import jax

from mamt_jax.networks.per_agent import Network


def uniform_fan_in(scale: float = 1.0) -> nn.initializers.Initializer:
    """Initialiser U(-f, f) with f = scale / sqrt(fan-in), as in PyTorch's dense layers and therefore in MAAC's code."""
    return nn.initializers.variance_scaling(scale**2 / 3.0, "fan_in", "uniform")


UNIFORM_FAN_IN = uniform_fan_in()


def layer(module: nn.Module) -> Network:
    """Convert a flax module to a pair of pure functions, `init(key, *example inputs)` and `apply(params, *inputs)`."""
    return Network(module.init, module.apply)  # pyright: ignore[reportArgumentType]


def leaky_relu(x: jax.Array) -> jax.Array:
    """LeakyReLU with slope 0.01, the activation in MAAC's networks."""
    return nn.leaky_relu(x, 0.01)


class SplitDense(nn.Module):
    """Dense layer over several concatenated inputs, with one kernel per input.

    Each input can be padded and replaced separately.

    Kernels are drawn from U(-f, f) with f = 1 / sqrt(sum of the input widths), like the kernel of one dense layer.
    """

    features: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Map inputs (..., width_m) to (..., features)."""
        scale = sum(x.shape[-1] for x in inputs) ** -0.5
        output = self.param("bias", nn.initializers.zeros, (self.features,))
        output = output.reshape((1,) * (inputs[0].ndim - 1) + (-1,))
        for index, x in enumerate(inputs):
            output = output + x @ self.param(f"kernel_{index}", symmetric_uniform(scale), (x.shape[-1], self.features))
        return output


def symmetric_uniform(scale: float) -> Callable[..., jax.Array]:
    """Return the initialiser U(-scale, scale)."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-scale, maxval=scale)

    return init


class MLP(nn.Module):
    """Dense layers with LeakyReLU between them. The last layer is linear, and `output_scale` scales its initial kernel."""

    widths: tuple[int, ...]
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map inputs (B, d) to (B, widths[-1])."""
        for width in self.widths[:-1]:
            x = leaky_relu(nn.Dense(width, kernel_init=UNIFORM_FAN_IN)(x))
        return nn.Dense(self.widths[-1], kernel_init=uniform_fan_in(self.output_scale))(x)
