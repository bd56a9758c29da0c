"""LOLA on the iterated prisoner's dilemma by its exact value, and DiCE against every trajectory there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.losses.lookahead import dice_value, lookahead_value

GAMMA = 0.96
REWARD = jnp.array([-1.0, -3.0, 0.0, -2.0])  # after CC, CD, DC, DD, one's own action first
START, CC, CD, DC, DD = range(5)
SWAPPED = jnp.array([START, CC, DC, CD, DD])  # the same states in the other's eyes


def joint_policy(own: jax.Array, other: jax.Array) -> jax.Array:
    """(5, 4): probabilities of CC, CD, DC, DD in each state, from logits of cooperating (5,)."""
    p, q = jax.nn.sigmoid(own), jax.nn.sigmoid(other)[SWAPPED]
    return jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], -1)


def exact_value(own: jax.Array, other: jax.Array) -> jax.Array:
    """The discounted return of endless play."""
    joint = joint_policy(own, other)
    return joint[START] @ jnp.linalg.solve(jnp.eye(4) - GAMMA * joint[CC:], REWARD)


@jax.jit
@jax.vmap
def learn(key: jax.Array, lookahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both climb from near-uniform policies, each looking ahead at the other; returns a step (2,), cooperation (2, 5)."""

    def both(theta: jax.Array, _: jax.Array) -> tuple[jax.Array, None]:
        def ahead(own: jax.Array, other: jax.Array) -> jax.Array:
            return lookahead_value(exact_value, exact_value, own, other, lookahead)

        return theta + 0.2 * jax.vmap(jax.grad(ahead))(theta, theta[::-1]), None

    theta, _ = jax.lax.scan(both, 0.1 * jax.random.normal(key, (2, 5)), None, 1000)
    return (1 - GAMMA) * jax.vmap(exact_value)(theta, theta[::-1]), jax.nn.sigmoid(theta)


def test_lola_finds_reciprocity_where_naive_learners_defect():
    lookahead = jnp.repeat(jnp.array([0.3, 0.0]), 10)
    played = learn(jax.random.split(jax.random.key(0), 20), lookahead)
    (value, naive_value), (cooperation, naive_cooperation) = (x.reshape(2, 10, *x.shape[1:]) for x in played)
    np.testing.assert_allclose(naive_value, -2.0, atol=0.02)  # both always defect
    assert (naive_cooperation[..., [START, DD]] < 0.2).all()
    assert value.mean() > -1.3  # tit for tat has -1
    after_their_cooperation, after_their_defection = cooperation[..., [CC, DC]], cooperation[..., [CD, DD]]
    assert after_their_cooperation.mean() > after_their_defection.mean() + 0.2 and cooperation[..., CC].mean() > 0.9


def test_lookahead_gradient_by_finite_differences():
    own, other = jax.random.normal(jax.random.key(1), (2, 5))

    def ahead(own: jax.Array) -> jax.Array:
        return lookahead_value(exact_value, exact_value, own, other, 0.5)

    gradient = jax.grad(ahead)(own)
    numeric = [(ahead(own.at[i].add(1e-2)) - ahead(own.at[i].add(-1e-2))) / 2e-2 for i in range(5)]
    np.testing.assert_allclose(gradient, numeric, rtol=0.02, atol=0.02)
    naive = jax.grad(exact_value)(own, other)
    assert np.abs(gradient - naive).max() > 0.1


def test_expected_derivatives_of_dice_are_those_of_the_value():
    own, other = jax.random.normal(jax.random.key(2), (2, 5))
    plays = jnp.array(list(itertools.product(range(4), repeat=3)))  # (64, 3): all games of three steps
    states = jnp.concatenate([jnp.full((64, 1), START), plays[:, :-1] + 1], 1)
    baseline = jax.random.normal(jax.random.key(3), (5,))[states]  # any function of the state is right

    def log_probs(own: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.log(joint_policy(own, other))[states, plays]

    def value(own: jax.Array, other: jax.Array) -> jax.Array:
        discounted = (REWARD[plays] * GAMMA ** jnp.arange(3)[None]).sum(1)
        return (jnp.exp(log_probs(own, other).sum(1)) * discounted).sum()

    weight = jax.lax.stop_gradient(jnp.exp(log_probs(own, other).sum(1)))
    done = jnp.zeros((3, 64), bool)

    def estimate(own: jax.Array, other: jax.Array) -> jax.Array:
        def each(log_prob: jax.Array, reward: jax.Array, baseline: jax.Array) -> jax.Array:
            column = [x[:, None] for x in (log_prob, reward, baseline)]
            return dice_value(*column, done=done[:, :1], gamma=GAMMA)

        return (weight * jax.vmap(each)(log_probs(own, other), REWARD[plays], baseline)).sum()

    for derivative in (lambda f: f, jax.grad, lambda f: jax.jacobian(jax.grad(f), 1), jax.hessian):
        np.testing.assert_allclose(derivative(estimate)(own, other), derivative(value)(own, other), atol=2e-4)


def test_dice_begins_anew_after_an_episodes_end():
    log_prob, reward, baseline = jax.random.normal(jax.random.key(4), (3, 6, 1))
    done = jnp.zeros((6, 1), bool).at[2].set(True)

    def gradient(rows: slice) -> jax.Array:
        def value(log_prob: jax.Array) -> jax.Array:
            return dice_value(log_prob, reward[rows], baseline[rows], done[rows], GAMMA)

        return jax.grad(value)(log_prob[rows])

    whole = gradient(slice(0, 6))
    np.testing.assert_allclose(whole, jnp.concatenate([gradient(slice(0, 3)), gradient(slice(3, 6))]), rtol=1e-5)
