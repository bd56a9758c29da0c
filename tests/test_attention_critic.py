import jax
import jax.numpy as jnp
import numpy as np
from unlike_agents import CONTINUOUS, DISCRETE, actions, observations

from envs_jax.environment import EnvSpec
from mamt_jax.distributions import action_distribution
from mamt_jax.losses.coordination import coordination_coefficients, marginal_values
from mamt_jax.networks.attention_critic import AttentionCritic, attention_critic
from mamt_jax.networks.policy import mlp_per_agent

HIDDEN, HEADS, BATCH = 8, 2, 4


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def build(spec: EnvSpec) -> tuple[AttentionCritic, dict, tuple[jax.Array, jax.Array, jax.Array]]:
    distribution = action_distribution(spec)
    critic = attention_critic(spec, HIDDEN, HEADS, distribution.features)
    observation = observations(spec, jax.random.key(1), BATCH).swapaxes(0, 1)
    action = actions(spec, jax.random.key(2), BATCH).swapaxes(0, 1)
    return critic, critic.init(jax.random.key(0)), (observation, action, distribution.features(action))


def numpy_q(params: dict, spec: EnvSpec, observation: np.ndarray, features: np.ndarray, agent: int) -> np.ndarray:
    """Q of all of one discrete agent's actions for one row, from unpadded slices, as MAAC's paper has it."""
    params = jax.tree.map(np.asarray, params)

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
    critic, params, (observation, _, features) = build(DISCRETE)
    every = jnp.broadcast_to(jnp.arange(3), (3, BATCH, 3))
    q = critic.values(params, observation, features, every).q
    for row in range(BATCH):
        for agent, size in enumerate(DISCRETE.action_sizes):
            expected = numpy_q(params, DISCRETE, np.asarray(observation)[:, row], np.asarray(features)[:, row], agent)
            np.testing.assert_allclose(q[agent, row, :size], expected, rtol=1e-4, atol=1e-5)


def test_padding_gets_no_gradient() -> None:
    critic, params, (observation, action, features) = build(DISCRETE)
    gradient = jax.grad(lambda p: jnp.square(critic.values(p, observation, features, action[..., None]).q).sum())(params)
    for part, kernel, axis, sizes in (
        ("state", "kernel_0", 0, DISCRETE.observation_sizes),
        ("action", "kernel_0", 0, DISCRETE.observation_sizes),
        ("action", "kernel_1", 0, DISCRETE.action_sizes),
    ):
        for agent, size in enumerate(sizes):
            real, padding = np.split(np.asarray(gradient[part]["params"][kernel][agent]), [size], axis)
            assert real.any() and not padding.any()
    head = np.asarray(gradient["value"]["params"]["Dense_0"]["kernel"])
    assert head[1, :, :2].any() and not head[1, :, 2:].any()


def test_padded_policies_equal_separate_unpadded_ones_initialised_at_their_width() -> None:
    sizes = (40, 3), (2, 2)
    together = mlp_per_agent((40, 2), (3, 2), HIDDEN)
    params = together.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (2, BATCH, 40)) * (np.arange(40) < np.array([[40], [2]]))[:, None]
    output = together.apply(params, inputs)
    for agent, (width, out) in enumerate(sizes):
        alone = mlp_per_agent((width,), (out,), HIDDEN)
        shapes = jax.eval_shape(alone.init, jax.random.key(0))
        cut = jax.tree.map(lambda p, like, i=agent: p[i : i + 1][tuple(slice(s) for s in like.shape)], params, shapes)
        np.testing.assert_allclose(output[agent, :, :out], alone.apply(cut, inputs[agent : agent + 1, :, :width])[0], atol=1e-6)
        first = np.asarray(params["params"]["Dense_0"]["kernel"][agent])
        assert not first[width:].any() and 0.7 < np.abs(first[:width]).max() * width**0.5 <= 1.0


def coordination_by_brute_force(spec: EnvSpec) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 14 from one whole critic for each pair and candidate, and from `swapped_values`."""
    distribution = action_distribution(spec, num_samples=3)
    critic, params, (observation, action, features) = build(spec)
    parameters = jax.random.normal(jax.random.key(3), (3, BATCH, max(distribution.parameter_sizes)))
    candidates = distribution.candidates(parameters, jax.random.key(4))

    def q_of(action: jax.Array) -> jax.Array:
        return critic.values(params, observation, distribution.features(action), action[:, :, None]).q[..., 0]

    swapped = np.zeros((3, 3, BATCH, candidates.probability.shape[-1]))
    for j in range(3):
        for c in range(swapped.shape[-1]):
            swapped[:, j, :, c] = q_of(action.at[j].set(candidates.action[j, :, c]))
    q = q_of(action)
    ours = critic.swapped_values(params, observation, action, features, candidates.action)
    off_diagonal = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(np.asarray(ours)[off_diagonal], swapped[off_diagonal], rtol=1e-4, atol=1e-5)
    coefficients = coordination_coefficients(marginal_values(ours, candidates.probability), q, 0.2)
    influence = np.abs((swapped * np.asarray(candidates.probability)[None]).sum(-1) - np.asarray(q)[:, None])
    soft = np.exp(influence) * off_diagonal[..., None]
    soft = soft / soft.sum(1, keepdims=True)
    return np.asarray(coefficients), np.where(soft >= 0.2, soft, 0.0)


def test_coordination_coefficients_equal_brute_force_with_discrete_actions() -> None:
    ours, expected = coordination_by_brute_force(DISCRETE)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_coordination_coefficients_equal_brute_force_with_continuous_actions() -> None:
    ours, expected = coordination_by_brute_force(CONTINUOUS)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_coordination_threshold_drops_weak_dependence() -> None:
    marginal = jnp.array([[[9.0], [2.0], [0.0]], [[0.0], [9.0], [0.0]], [[0.0], [0.0], [9.0]]])
    coefficients = coordination_coefficients(marginal, jnp.zeros((3, 1)), 0.2)[..., 0]
    strong = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(coefficients, [[0, strong, 0], [0.5, 0, 0.5], [0.5, 0.5, 0]], rtol=1e-5)


def test_attention_is_shared_out_among_the_others_and_equal_where_nobody_is_asked_for() -> None:
    critic, params, (observation, action, features) = build(DISCRETE)
    attention = np.asarray(critic.values(params, observation, features, action[..., None]).attention)
    np.testing.assert_allclose(attention.sum(1), 1, rtol=1e-5)
    assert (np.diag(attention) == 0).all() and np.abs(attention - 0.5)[~np.eye(3, dtype=bool)].max() > 1e-4
    silent = params | {"attention": params["attention"] | {"query": jnp.zeros_like(params["attention"]["query"])}}
    equal = critic.values(silent, observation, features, action[..., None]).attention
    np.testing.assert_allclose(equal, (1 - np.eye(3)) / 2, rtol=1e-5)
