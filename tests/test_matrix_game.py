"""Matrix games: payoffs as published, and what each player sees of the last round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import make

# game -> (payoff to player 0, payoff to player 1) after 00, 01, 10, 11 as player 0 and player 1 chose.
PUBLISHED = {
    "prisoners_dilemma": ([-1, -3, 0, -2], [-1, 0, -3, -2]),
    "stag_hunt": ([4, 0, 3, 2], [4, 3, 0, 2]),
    "matching_pennies": ([1, -1, -1, 1], [-1, 1, 1, -1]),
}


@pytest.mark.parametrize("game", PUBLISHED)
def test_payoffs_and_memory(game: str) -> None:
    env = make("matrix_game", game=game, episode_limit=3)
    state, first = jax.jit(env.reset)(jax.random.key(0))
    np.testing.assert_array_equal(first.observation.argmax(-1), [0, 0])
    actions = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    _, after = jax.jit(jax.vmap(env.transition, (None, 0, None)))(state, actions, ())
    np.testing.assert_array_equal(after.reward.T, PUBLISHED[game])
    np.testing.assert_array_equal(after.observation.argmax(-1), [[1, 1], [2, 3], [3, 2], [4, 4]])
    np.testing.assert_allclose(after.metrics["first_action"], [1, 0.5, 0.5, 0])


def test_unknown_games_are_refused() -> None:
    with pytest.raises(ValueError, match="game='chess' is not valid: game must be one of prisoners_dilemma, stag_hunt"):
        make("matrix_game", game="chess")
