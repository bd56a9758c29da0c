"""Networks: the attention critic against plain numpy, padding that counts for nothing, and message passing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, DISCRETE, actions, observations

from envs_jax.environment import EnvSpec
from mamt_jax.distributions import action_distribution
from mamt_jax.losses.coordination import coordination_coefficients, marginal_values
from mamt_jax.networks.attention_critic import attention_critic
from mamt_jax.networks.centralized_critic import centralized_critic
from mamt_jax.networks.policy import mlp_per_agent
from mamt_jax.networks.trust_region_network import graph_convolution, symmetric_weights, trust_region_network

N, HIDDEN, HEADS, BATCH = 3, 8, 2, 4
OTHERS = ~np.eye(N, dtype=bool)


@functools.cache
def critic_results(spec: EnvSpec) -> dict[str, Any]:
    """What the critic says of one batch, all by one program; [j, c] of `one_by_one` is q with j's action its candidate c."""
    distribution = action_distribution(spec, num_samples=3)
    critic = attention_critic(spec, HIDDEN, HEADS, distribution.features)

    @jax.jit
    def run() -> dict[str, Any]:
        params = critic.init(jax.random.key(0))
        observation = observations(spec, jax.random.key(1), BATCH).swapaxes(0, 1)
        action = actions(spec, jax.random.key(2), BATCH).swapaxes(0, 1)
        parameters = jax.random.normal(jax.random.key(3), (N, BATCH, max(distribution.parameter_sizes)))
        candidates = distribution.candidates(parameters, jax.random.key(4))
        features, own = distribution.features(action), action[:, :, None]

        def q_of(action: jax.Array) -> jax.Array:
            return critic.values(params, observation, distribution.features(action), action[:, :, None]).q[..., 0]

        def instead(j: int) -> jax.Array:
            return jax.vmap(lambda own: action.at[j].set(own), 1)(candidates.action[j])

        output = critic.values(params, observation, features, own)
        silent = params | {"attention": params["attention"] | {"query": jnp.zeros_like(params["attention"]["query"])}}
        swapped = critic.swapped_values(params, observation, action, features, candidates.action)
        return {
            "params": params,
            "observation": observation,
            "features": features,
            "probability": candidates.probability,
            "q": output.q[..., 0],
            "attention": output.attention,
            "silent_attention": critic.values(silent, observation, features, own).attention,
            "gradient": jax.grad(lambda p: jnp.square(critic.values(p, observation, features, own).q).sum())(params),
            "one_by_one": jax.vmap(jax.vmap(q_of))(jnp.stack([instead(j) for j in range(N)])),
            "swapped": swapped,
            "coordination": coordination_coefficients(marginal_values(swapped, candidates.probability), q_of(action), 0.2),
            "every_q": critic.values(params, observation, features, jnp.broadcast_to(jnp.arange(3), (N, BATCH, 3))).q
            if spec.discrete
            else None,
        }

    return jax.tree.map(np.asarray, run())


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def numpy_q(params: dict, spec: EnvSpec, observation: np.ndarray, features: np.ndarray, agent: int) -> np.ndarray:
    """Q of all of one discrete agent's actions for one row, from unpadded slices, as in MAAC's paper."""

    def dense(part: str, i: int, *inputs: np.ndarray) -> np.ndarray:
        p = params[part]["params"]
        return p["bias"][i] + sum(x @ p[f"kernel_{m}"][i][: len(x)] for m, x in enumerate(inputs))

    own = [observation[i][: spec.observation_sizes[i]] for i in range(spec.num_agents)]
    acted = [features[i][: spec.action_sizes[i]] for i in range(spec.num_agents)]
    state = leaky(dense("state", agent, own[agent]))
    others = [j for j in range(spec.num_agents) if j != agent]
    encodings = np.stack([leaky(dense("action", j, own[j], acted[j])) for j in others])
    shared = params["attention"]
    key, query = encodings @ shared["key"], state @ shared["query"]
    value = leaky(encodings @ shared["value"] + shared["bias"])
    attended = []
    for head in np.split(np.arange(HIDDEN), HEADS):
        logits = key[:, head] @ query[head] / np.sqrt(len(head))
        weights = np.exp(logits - logits.max())
        attended.append(weights / weights.sum() @ value[:, head])
    hidden = leaky(dense("hidden", agent, state, np.concatenate(attended)))
    layer = params["value"]["params"]["Dense_0"]
    return (hidden @ layer["kernel"][agent] + layer["bias"][agent])[: spec.action_sizes[agent]]


def test_values_agree_with_a_plain_numpy_critic_of_unpadded_agents() -> None:
    found = critic_results(DISCRETE)
    for row in range(BATCH):
        for agent, size in enumerate(DISCRETE.action_sizes):
            expected = numpy_q(found["params"], DISCRETE, found["observation"][:, row], found["features"][:, row], agent)
            np.testing.assert_allclose(found["every_q"][agent, row, :size], expected, rtol=1e-4, atol=1e-5)


def test_padding_gets_no_gradient() -> None:
    gradient = critic_results(DISCRETE)["gradient"]
    for part, kernel, sizes in (
        ("state", "kernel_0", DISCRETE.observation_sizes),
        ("action", "kernel_0", DISCRETE.observation_sizes),
        ("action", "kernel_1", DISCRETE.action_sizes),
    ):
        for agent, size in enumerate(sizes):
            real, padding = np.split(gradient[part]["params"][kernel][agent], [size])
            assert real.any() and not padding.any()
    head = gradient["value"]["params"]["Dense_0"]["kernel"]
    assert head[1, :, :2].any() and not head[1, :, 2:].any()


@pytest.mark.parametrize("spec", [DISCRETE, pytest.param(CONTINUOUS, marks=pytest.mark.slow)])
def test_coordination_coefficients_equal_brute_force(spec: EnvSpec) -> None:
    found = critic_results(spec)
    one_by_one = np.moveaxis(found["one_by_one"], (0, 1), (1, 3))
    np.testing.assert_allclose(found["swapped"][OTHERS], one_by_one[OTHERS], rtol=1e-4, atol=1e-5)
    influence = np.abs((one_by_one * found["probability"]).sum(-1) - found["q"][:, None])
    soft = np.exp(influence) * OTHERS[..., None]
    soft = soft / soft.sum(1, keepdims=True)
    np.testing.assert_allclose(found["coordination"], np.where(soft >= 0.2, soft, 0.0), atol=1e-5)


def test_attention_is_shared_out_among_the_others_and_equal_without_queries() -> None:
    found = critic_results(DISCRETE)
    attention = found["attention"]
    np.testing.assert_allclose(attention.sum(1), 1, rtol=1e-5)
    assert (np.diag(attention) == 0).all() and np.abs(attention - 0.5)[OTHERS].max() > 1e-4
    np.testing.assert_allclose(found["silent_attention"], OTHERS / 2, rtol=1e-5)


def test_padded_policies_equal_separate_unpadded_ones_initialised_at_their_width() -> None:
    sizes = (40, 3), (2, 2)
    together = mlp_per_agent((40, 2), (3, 2), HIDDEN)
    params = jax.jit(together.init)(jax.random.key(0))
    inputs = np.random.default_rng(0).normal(size=(2, BATCH, 40)) * (np.arange(40) < np.array([[40], [2]]))[:, None]
    output = jax.jit(together.apply)(params, inputs)
    for agent, (width, out) in enumerate(sizes):
        alone = mlp_per_agent((width,), (out,), HIDDEN)
        shapes = jax.eval_shape(alone.init, jax.random.key(0))
        cut = jax.tree.map(
            lambda p, like, i=agent: np.asarray(p)[i : i + 1][tuple(slice(s) for s in like.shape)], params, shapes
        )
        expected = jax.jit(alone.apply)(cut, inputs[agent : agent + 1, :, :width])
        np.testing.assert_allclose(output[agent, :, :out], expected[0], atol=1e-6)
        first = np.asarray(params["params"]["Dense_0"]["kernel"])[agent]
        assert not first[width:].any() and 0.7 < np.abs(first[:width]).max() * width**0.5 <= 1.0


def test_centralized_critics_see_every_true_observation_and_action_and_no_padding() -> None:
    critic = centralized_critic((DISCRETE.observation_sizes, DISCRETE.action_sizes), HIDDEN)

    @jax.jit
    def slopes(key: jax.Array) -> Any:
        params = jax.tree.map(lambda leaf: leaf[1], critic.init(key))
        inputs = (jnp.ones((N, 1, 4)), jnp.ones((N, 1, 3)))
        return jax.grad(lambda inputs: critic.apply(params, *inputs).sum())(inputs)

    seen = slopes(jax.random.key(0))
    np.testing.assert_array_equal(seen[0][:, 0] != 0, DISCRETE.observation_mask)
    np.testing.assert_array_equal(seen[1][:, 0] != 0, DISCRETE.action_mask)


def dense_graph_convolution(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with_self = weights + np.eye(len(weights))
    scale = np.diag(with_self.sum(1) ** -0.5)
    return scale @ with_self @ scale @ nodes


def test_graph_convolution_equals_the_dense_formula_with_absent_edges() -> None:
    random = np.random.default_rng(0)
    weights = random.uniform(size=(4, 4)) * (random.uniform(size=(4, 4)) < 0.6)
    weights = (weights + weights.T) / 2 * ~np.eye(4, dtype=bool)
    weights[3], weights[:, 3] = 0.0, 0.0
    nodes = random.normal(size=(4, 5))
    ours = jax.jit(graph_convolution)(nodes.astype(np.float32), weights.astype(np.float32))
    np.testing.assert_allclose(ours, dense_graph_convolution(nodes, weights), atol=1e-6)
    np.testing.assert_allclose(ours[3], nodes[3], atol=1e-6)


def test_decomposition_network_is_equivariant_under_renumbering_and_never_negative() -> None:
    network, random, order = trust_region_network(DISCRETE, HIDDEN), np.random.default_rng(0), np.array([2, 0, 1])
    params = jax.tree.map(np.asarray, jax.jit(network.init)(jax.random.key(0)))
    inputs = [random.normal(size=(N, BATCH, 4)), random.normal(size=(N, BATCH, 3)), np.array([-2.0, 0.0, 3.0])]
    inputs = [x.astype(np.float32) for x in inputs]
    weights = np.asarray(symmetric_weights(jnp.array(random.uniform(size=(N, N, BATCH)) * OTHERS[..., None], jnp.float32)))
    renumbered = params | {name: jax.tree.map(lambda p: p[order], params[name]) for name in ("messages", "own")}
    apply = jax.jit(network.apply)
    estimate = np.asarray(apply(params, *inputs, weights))
    other = apply(renumbered, *(x[order] for x in inputs), weights[order][:, order])
    np.testing.assert_allclose(other, estimate[order], atol=1e-5)
    assert (estimate >= 0).all() and np.ptp(estimate) > 0
    assert not np.allclose(apply(params, *inputs, weights * 0), estimate), "messages must matter"
