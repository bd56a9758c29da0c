"""Repeated matrix games of two players with memory of the last round, the smallest tasks for opponent shaping."""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Discrete, Environment, EnvSpec, Noise, TimeStep, make_timestep
from envs_jax.scene import INK, Scene, Shape, colour
from envs_jax.validation import require_count

Game = Literal["prisoners_dilemma", "stag_hunt", "matching_pennies"]

# Tables are indexed by [own action, other player's action]. In the zero-sum game player 1 has minus the table of player 0.
PRISONERS_DILEMMA = ((-1.0, -3.0), (0.0, -2.0))
STAG_HUNT = ((4.0, 0.0), (3.0, 2.0))
MATCHING_PENNIES = ((1.0, -1.0), (-1.0, 1.0))
PAYOFFS: dict[Game, np.ndarray] = {
    "prisoners_dilemma": np.stack([PRISONERS_DILEMMA, PRISONERS_DILEMMA]),
    "stag_hunt": np.stack([STAG_HUNT, STAG_HUNT]),
    "matching_pennies": np.stack([MATCHING_PENNIES, np.negative(MATCHING_PENNIES)]),
}
NUM_ACTIONS = 2


class MatrixGameState(NamedTuple):
    """State of a matrix game.

    Attributes:
        action: (2,) int32, last action of each player; -1 before the first round.
        step: () int32, number of rounds played.
    """

    action: jax.Array
    step: jax.Array


def observe(state: MatrixGameState) -> jax.Array:
    """Observations of both players, (2, 5) one-hot: the first round, or the last round's pair (own action, other's action)."""
    own, other = state.action, state.action[::-1]
    return jax.nn.one_hot(jnp.where(own < 0, 0, 1 + NUM_ACTIONS * own + other), 1 + NUM_ACTIONS**2)


def _timestep(spec: EnvSpec, state: MatrixGameState, reward: jax.Array | None) -> TimeStep:
    return make_timestep(
        spec,
        observe(state),
        reward=reward,
        truncated=state.step >= spec.episode_limit,
        metrics={"first_action": (state.action == 0).astype(jnp.float32).mean()},
    )


def _reset(key: jax.Array, spec: EnvSpec) -> tuple[MatrixGameState, TimeStep]:
    del key
    state = MatrixGameState(jnp.full(2, -1, jnp.int32), jnp.zeros((), jnp.int32))
    return state, _timestep(spec, state, None)


def _transition(
    state: MatrixGameState, action: jax.Array, noise: Noise, spec: EnvSpec, payoff: np.ndarray
) -> tuple[MatrixGameState, TimeStep]:
    del noise
    reward = jnp.asarray(payoff, jnp.float32)[jnp.arange(2), action, action[::-1]]
    state = MatrixGameState(action.astype(jnp.int32), state.step + 1)
    return state, _timestep(spec, state, reward)


def _tit_for_tat(key: jax.Array, state: MatrixGameState) -> jax.Array:
    """Tit for tat: action 0 in the first round, then the other player's last action."""
    del key
    return jnp.maximum(state.action[::-1], 0)


def _scene(state: MatrixGameState, game: str) -> Scene:
    """Draws two players, each labelled with its last action."""
    said = [str(action) if action >= 0 else "" for action in np.asarray(state.action)]
    players = [Shape("disc", x, 0.0, 0.6, colour(player), said[player]) for player, x in enumerate((-0.8, 0.8))]
    table = Shape("square", 0.0, 0.0, 0.05, INK)
    return Scene((-1.6, -1.6), (1.6, 1.6), [table, *players], f"{game}, round {state.step}: last actions", 2.0)


def matrix_game(game: Game = "prisoners_dilemma", episode_limit: int = 25) -> Environment:
    """Matrix game: two players repeat a game of two actions and remember the last round.

    - observation: one-hot vector of 5. Entry 0 is the first round, entry 1 + 2 own + other is the pair of actions in the last
      round.
    - action: 0 or 1, int32. In the prisoner's dilemma 0 cooperates, in the stag hunt 0 hunts the stag.
    - reward for the (own, other's) actions (0, 0), (0, 1), (1, 0), (1, 1): prisoner's dilemma -1, -3, 0, -2 (Foerster et al.,
      2018); stag hunt 4, 0, 3, 2; matching pennies 1, -1, -1, 1 for player 0, who wants equal actions, and -1, 1, 1, -1 for
      player 1.
    - termination: never; truncated after `episode_limit` rounds.
    - state: `MatrixGameState`.

    The metric `first_action` is the share of players that chose action 0. The scripted policy plays tit for tat.

    Args:
        game: name of the game, which determines the rewards.
        episode_limit: number of rounds in an episode.

    Raises:
        ValueError: if there is no such game, or `episode_limit` is not a positive integer.
    """
    if game not in PAYOFFS:
        raise ValueError(f"game={game!r} is not valid: game must be one of {', '.join(get_args(Game))}.")
    require_count("episode_limit", episode_limit)
    spec = EnvSpec(
        name="matrix_game",
        agent_names=("player_0", "player_1"),
        observation_sizes=(1 + NUM_ACTIONS**2,) * 2,
        action_spaces=(Discrete(NUM_ACTIONS),) * 2,
        episode_limit=episode_limit,
    )
    return Environment(
        spec=spec,
        reset=functools.partial(_reset, spec=spec),
        transition=functools.partial(_transition, spec=spec, payoff=PAYOFFS[game]),
        scripted=_tit_for_tat,
        scene=functools.partial(_scene, game=game),
        dependence=lambda state: ~jnp.eye(2, dtype=bool),
    )
