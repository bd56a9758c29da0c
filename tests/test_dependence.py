"""The dependence between agents that environments declare, against rewards after one changed action."""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dependence as experiment
import envs_jax
from analysis import dependence as analysis
from envs_jax.environment import Environment
from mamt_jax.cli import train

STEPS, NUM_ACTIONS = 8, 5


def affected(env: Environment, react: bool, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which agents' rewards change with the first action of which agent, and the declared dependence, (n, n) bool each.

    Actions follow from the first observations. With `react` they follow from the current ones.
    """
    reset_key, policy_key, step_key = jax.random.split(key, 3)
    start, first = env.reset(reset_key)
    weights = jax.random.normal(policy_key, (STEPS, *first.observation.shape, NUM_ACTIONS))
    n, steps = env.spec.num_agents, (jnp.arange(STEPS), jax.random.split(step_key, STEPS), weights)

    def rewards(agent: jax.Array, action: jax.Array) -> jax.Array:
        """Rewards (T, n) of an episode in which `agent` begins with `action`."""

        def step(carry: tuple, given: tuple) -> tuple[tuple, jax.Array]:
            (state, observation), (number, key, weight) = carry, given
            seen = observation if react else first.observation
            chosen = jnp.einsum("nd,nda->na", seen, weight).argmax(-1).astype(jnp.int32)
            chosen = jnp.where((number == 0) & (jnp.arange(n) == agent), action, chosen)
            state, timestep = env.step(key, state, chosen)
            return (state, timestep.observation), timestep.reward

        return jax.lax.scan(step, (start, first.observation), steps)[1]

    of_actions = jax.vmap(rewards, (None, 0))
    played = jax.vmap(of_actions, (0, None))(jnp.arange(n), jnp.arange(NUM_ACTIONS))  # (j, action, T, i)
    changes = (played != played[:, :1]).any((1, 2)).T & ~jnp.eye(n, dtype=bool)
    assert env.dependence is not None
    return changes, env.dependence(start)


@pytest.mark.parametrize(
    ("name", "react"), [("rover_tower", True), ("spread3_sep", False), ("spread3_mix", False), ("spread3_ful", False)]
)
def test_rewards_change_with_the_actions_of_exactly_the_agents_on_which_they_depend(name: str, react: bool) -> None:
    env = envs_jax.make(name)
    assert isinstance(env, Environment)
    keys = jax.random.split(jax.random.key(0), 128)
    changes, depends = map(np.asarray, jax.jit(jax.vmap(functools.partial(affected, env, react)))(keys))
    assert not (changes & ~depends).any()
    np.testing.assert_array_equal(changes.any(0), depends.any(0))


@pytest.mark.slow
def test_runs_are_compared_with_the_true_dependence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ["--episodes", "48", "--num-envs", "12", "--update-interval", "192", "--num-updates", "1", "--batch-size", "16"]
    size += ["--buffer-size", "6000", "--evaluation-interval", "12", "--evaluation-episodes", "4", "--hidden-size", "8"]
    folders = {variant: str(tmp_path / variant) for variant in ("paper", "dependence")}
    for variant, folder in folders.items():
        options = ["--env", "spread3_mix", "--algo", "mamt", "--variant", variant, "--seeds", "2"]
        assert train.main([*options, *size, "--out", folder]) == 0
    out = tmp_path / "dependence.json"
    monkeypatch.setattr(sys, "argv", ["dependence.py", folders["dependence"], "--out", str(out)])
    experiment.main()
    content = json.loads(out.read_text())
    assert [run["seed"] for run in content["runs"]] == [0, 1]
    assert all(run["recall"][1] is None and run["false_positive_rate"][1] is not None for run in content["runs"])
    assert analysis.table(content["runs"]).count("Spread-3-Mix") == 1
    analysis.draw(content)
    monkeypatch.setattr(sys, "argv", ["dependence.py", folders["paper"], "--out", str(out)])
    with pytest.raises(SystemExit, match="--variant dependence"):
        experiment.main()
