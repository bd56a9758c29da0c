"""Measures how well a joint policy's divergence is estimated by the mean-field sum, by D_ns, and by trained networks.

A joint policy is a Markov random field, `pi(a) ~ exp(Q(a))` with `Q(a) = sum_i u_i(a_i) + sum_{i<j} W_ij(a_i, a_j)`. The
dependence between agents follows from Q as the paper computes it from critics (Eq. 14). The previous policy has nearby u and W.
Everything else that MAMT learns is exact here: networks see each agent's own policy and its change, Q is known, and modelling
policies equal the previous policies. The remaining error is that of the method.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.divergence import joint_divergence, own_divergence
from mamt_jax.losses.coordination import coordination_coefficients
from mamt_jax.losses.opponent_model import non_stationarity
from mamt_jax.losses.trust_region import decomposition_loss
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.trust_region_network import symmetric_weights, trust_region_network

AGENTS, ACTIONS = 3, 3
COUPLINGS = (0.0, 0.5, 1.0, 2.0, 4.0)
SHOWN_AT = (0.0, 2.0)
"""Couplings for which single pairs are kept for a figure."""
CHANGE = (0.05, 0.5)
THRESHOLD, CLIP = 0.2, 10.0
SEEDS, STEPS, BATCH, TEST, SHOWN = 5, 3000, 256, 4096, 250
HIDDEN, LEARNING_RATE = 64, 1e-3
SPEC = EnvSpec(
    name="markov_random_field",
    agent_names=tuple(f"agent_{i}" for i in range(AGENTS)),
    observation_sizes=(2 * ACTIONS,) * AGENTS,
    action_spaces=(Discrete(ACTIONS),) * AGENTS,
    episode_limit=1,
)


class Pair(NamedTuple):
    """A joint policy and its previous policy: their divergence, its estimates, and the inputs of the network.

    Attributes:
        truth: (), KL of the joint policies in nats.
        mean_field: (), sum of the agents' own KL.
        non_stationarity: (n,), D of Eq. 12.
        observation: (n, 2 A), log of each agent's own policy, and log of its ratio to the previous one.
        action: (n, A), a joint action drawn from the policy, one-hot.
        weights: (n, n), edge weights of the coordination graph.
    """

    truth: jax.Array
    mean_field: jax.Array
    non_stationarity: jax.Array
    observation: jax.Array
    action: jax.Array
    weights: jax.Array


def potential(unary: jax.Array, pairwise: jax.Array) -> jax.Array:
    """Q of every joint action; u (n, A) and W (n, n, A, A), of which only i < j is used -> (A,) * n."""
    q = jnp.zeros((ACTIONS,) * AGENTS)
    for i in range(AGENTS):
        q += jnp.expand_dims(unary[i], [k for k in range(AGENTS) if k != i])
        for j in range(i + 1, AGENTS):
            q += jnp.expand_dims(pairwise[i, j], [k for k in range(AGENTS) if k not in (i, j)])
    return q


def marginals(policy: jax.Array) -> jax.Array:
    """Marginal policy of each agent; (A,) * n -> (n, A)."""
    return jnp.stack([policy.sum(tuple(k for k in range(AGENTS) if k != i)) for i in range(AGENTS)])


def coordination(q: jax.Array, own: jax.Array, action: jax.Array) -> jax.Array:
    """C (Eq. 14) at a joint action (n,), with `q` as every agent's critic; q (A,) * n, own (n, A) -> (n, n)."""
    rows = [q[tuple(slice(None) if k == j else action[k] for k in range(AGENTS))] for j in range(AGENTS)]
    marginal = jnp.stack([row @ own[j] for j, row in enumerate(rows)])
    everyone = jnp.broadcast_to(marginal, (AGENTS, AGENTS))
    return coordination_coefficients(everyone[..., None], jnp.full((AGENTS, 1), q[tuple(action)]), THRESHOLD)[..., 0]


def draw(coupling: jax.Array, key: jax.Array) -> Pair:
    """Draws a random pair. Two agents depend on each other with probability 0.5. With `coupling` 0 both policies factorise."""
    keys = jax.random.split(key, 7)
    low, high = np.log(CHANGE)
    change = jnp.exp(jax.random.uniform(keys[0], minval=low, maxval=high))
    shape = (AGENTS, AGENTS, ACTIONS, ACTIONS)
    strength = coupling * jax.random.bernoulli(keys[1], 0.5, (AGENTS, AGENTS, 1, 1))
    unary, unary_step = (jax.random.normal(k, (AGENTS, ACTIONS)) for k in keys[2:4])
    pairwise, pairwise_step = (strength * jax.random.normal(k, shape) for k in keys[4:6])
    before = potential(unary, pairwise)
    after = potential(unary + change * unary_step, pairwise + change * pairwise_step)
    previous, policy = (jax.nn.softmax(q.ravel()).reshape(q.shape) for q in (before, after))
    drawn = jnp.stack(jnp.unravel_index(jax.random.categorical(keys[6], after.ravel()), after.shape))
    own, own_previous = marginals(policy), marginals(previous)
    dependence = coordination(after, own, drawn)
    surprise = jax.scipy.special.rel_entr(own_previous, own).sum(-1)
    seen = jnp.broadcast_to(surprise, (AGENTS, AGENTS))[..., None]
    return Pair(
        truth=joint_divergence(policy, previous),
        mean_field=own_divergence(policy, previous).sum(),
        non_stationarity=non_stationarity(dependence[..., None], seen, CLIP)[:, 0],
        observation=jnp.concatenate([jnp.log(own), jnp.log(own / own_previous)], -1),
        action=jax.nn.one_hot(drawn, ACTIONS),
        weights=symmetric_weights(dependence),
    )


def draw_batch(coupling: jax.Array, key: jax.Array, size: int) -> Pair:
    """Draws `size` pairs in the layout of the network: (B,), (B,), (n, B), (n, B, 2 A), (n, B, A), (n, n, B)."""
    pairs = jax.vmap(functools.partial(draw, coupling))(jax.random.split(key, size))
    return pairs._replace(
        non_stationarity=pairs.non_stationarity.T,
        observation=pairs.observation.swapaxes(0, 1),
        action=pairs.action.swapaxes(0, 1),
        weights=jnp.moveaxis(pairs.weights, 0, -1),
    )


def supervision(pairs: Pair, truth: bool) -> jax.Array:
    """Target of a network (Eq. 13), (n, B): equal shares of the joint KL if `truth`, else D. Only its sum counts."""
    shares = jnp.broadcast_to(pairs.truth / AGENTS, pairs.non_stationarity.shape)
    return shares if truth else pairs.non_stationarity


def estimate(network: Network, params: Any, pairs: Pair) -> jax.Array:
    """The network's estimate KLhat, (n, B)."""
    return network.apply(params, pairs.observation, pairs.action, jnp.zeros(AGENTS), pairs.weights)


def train(coupling: jax.Array, key: jax.Array, truth: bool) -> Any:
    """Trains a decomposition network for `STEPS` steps on fresh pairs (Eq. 13); returns its parameters."""
    network, optimizer = trust_region_network(SPEC, HIDDEN), optax.adam(LEARNING_RATE)
    init_key, data_key = jax.random.split(key)
    params = network.init(init_key)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        pairs = draw_batch(coupling, key, BATCH)
        target = supervision(pairs, truth)
        gradient = jax.grad(lambda params: decomposition_loss(estimate(network, params, pairs), target))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(data_key, STEPS))[0][0]


def estimates(coupling: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    """The joint KL of `TEST` fresh pairs and all estimates of it, (TEST,) each."""
    network = trust_region_network(SPEC, HIDDEN)
    test_key, *keys = jax.random.split(key, 3)
    pairs = draw_batch(coupling, test_key, TEST)
    learnt = [estimate(network, train(coupling, k, truth), pairs).sum(0) for k, truth in zip(keys, (False, True), strict=True)]
    return {
        "truth": pairs.truth,
        "mean_field": pairs.mean_field,
        "d_ns": pairs.non_stationarity.sum(0),
        "network": learnt[0],
        "network_taught_truth": learnt[1],
    }


def score(estimate: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """Scores of each seed: RMSE divided by the mean truth, correlation, and mean estimate divided by mean truth."""
    error = np.sqrt(np.square(estimate - truth).mean(1)) / truth.mean(1)
    correlation = [float(np.corrcoef(e, t)[0, 1]) for e, t in zip(estimate, truth, strict=True)]
    return {
        "relative_error": error.tolist(),
        "correlation": correlation,
        "bias": (estimate.mean(1) / truth.mean(1)).tolist(),
    }


def compare(key: jax.Array) -> dict[str, Any]:
    """Scores of every estimate of the joint KL for each coupling of agents, with `SEEDS` seeds each."""
    run = jax.jit(jax.vmap(estimates, (None, 0)))
    rows = []
    for number, coupling in enumerate(COUPLINGS):
        keys = jax.random.split(jax.random.fold_in(key, number), SEEDS)
        found = {name: np.asarray(values) for name, values in run(jnp.float32(coupling), keys).items()}
        truth = found.pop("truth")
        scores = {name: score(values, truth) for name, values in found.items()}
        rows.append({"coupling": coupling, "mean_joint_kl": float(truth.mean()), "scores": scores})
        if coupling in SHOWN_AT:
            shown = {"truth": truth, **found}
            rows[-1]["shown"] = {name: values[0, :SHOWN].astype(float).round(6).tolist() for name, values in shown.items()}
    settings = {"agents": AGENTS, "actions": ACTIONS, "seeds": SEEDS, "steps": STEPS, "batch": BATCH, "test_pairs": TEST}
    return {"settings": settings, "rows": rows}
