"""Networks with a leading agent axis, for agents with observations and actions of different widths."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.types import Params

Size = TypeVar("Size", bound=Hashable)


class Network(NamedTuple):
    """A network as two pure functions: `init(key) -> params` and `apply(params, *inputs) -> outputs`.

    The `init` of a single layer also takes example inputs, which define the input widths.
    """

    init: Callable[..., Params]
    apply: Callable[..., jax.Array]


def init_agents(init: Callable[[jax.Array, Size], Params], sizes: Sequence[Size], key: jax.Array) -> Params:
    """Initialise the network of each agent at its own size, zero-pad all leaves to the widest agent, and stack the agents.

    Initialisers depend on the fan-in of a kernel. Padding therefore follows the initialisation. `init(key, size)` returns the
    parameters of one agent. Agents of equal size are initialised in one vmapped call.
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
