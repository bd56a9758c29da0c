"""Networks of agents of different widths as one network with a leading agent axis."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.types import Params

Size = TypeVar("Size", bound=Hashable)


class Network(NamedTuple):
    """A network as two pure functions: `init(key) -> params` and `apply(params, *inputs) -> outputs`.

    A single layer's `init` also takes example inputs, whose widths it reads.
    """

    init: Callable[..., Params]
    apply: Callable[..., jax.Array]


def init_agents(init: Callable[[jax.Array, Size], Params], sizes: Sequence[Size], key: jax.Array) -> Params:
    """Initialise each agent's network at its own true size, zero-pad every leaf to the widest, stack on a leading axis.

    Initialisers look at a kernel's fan-in, so padding must come after them. `init(key, size)` gives one agent's parameters;
    agents of equal size share one vmapped call.
    """
    groups = {size: [i for i, other in enumerate(sizes) if other == size] for size in dict.fromkeys(sizes)}
    stacked = [
        jax.vmap(lambda k, size=size: init(k, size))(jax.random.split(group_key, len(members)))
        for group_key, (size, members) in zip(jax.random.split(key, len(groups)), groups.items(), strict=True)
    ]
    order = np.argsort([i for members in groups.values() for i in members])

    def join(*leaves: jax.Array) -> jax.Array:
        widest = [max(leaf.shape[axis] for leaf in leaves) for axis in range(1, leaves[0].ndim)]
        padded = [jnp.pad(x, [(0, 0), *((0, w - s) for w, s in zip(widest, x.shape[1:], strict=True))]) for x in leaves]
        return jnp.concatenate(padded)[order]

    return jax.tree.map(join, *stacked)
