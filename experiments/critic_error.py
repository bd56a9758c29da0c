"""Measures why MAAC learns Spread with 3 agents slowly: the critics' error compared with the advantages of actions.

python experiments/critic_error.py

Critics learn the values of the uniformly random policy from its transitions, as in training. The file
experiments/results/critic_error.json holds variances of standardised values, means over agents.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import envs_jax
from envs_jax.environment import Environment
from envs_jax.wrappers import auto_reset
from mamt_jax.algorithms import actor_critic, maac
from mamt_jax.training.run_folder import describe_machine
from mamt_jax.types import Transition

RESULT = Path(__file__).parent / "results" / "critic_error.json"
ENVS, STEPS, UPDATES, BATCH, ROWS, NEXT_ACTIONS = 256, 200, 3_000, 256, 2_048, 16
SETTINGS: dict[str, dict[str, Any]] = {
    "width 64": {"hidden_size": 64, "critic_learning_rate": 3e-3},
    "width 128": {"hidden_size": 128, "critic_learning_rate": 3e-3},
    "a third of the learning rate": {"hidden_size": 64, "critic_learning_rate": 1e-3},
    "gamma 0": {"hidden_size": 64, "critic_learning_rate": 1e-3, "gamma": 0.0},
}
"""Options of each setting; the other settings are gamma 0.95 and tau 0.05."""


def random_transitions(env: Environment, key: jax.Array) -> Transition:
    """Transitions of the uniformly random policy, (ENVS * STEPS, n, ...)."""
    reset_key, steps_key = jax.random.split(key)
    playing, spec = auto_reset(env), env.spec

    def step(carry: Any, key: jax.Array) -> tuple[Any, Transition]:
        state, seen = carry
        action_key, env_key = jax.random.split(key)
        action = jax.random.randint(action_key, (ENVS, spec.num_agents), 0, spec.action_size)
        state, after = jax.vmap(playing.step)(jax.random.split(env_key, ENVS), state, action)
        row = Transition(seen.observation, action, after.reward, after.final_observation, jnp.zeros(after.reward.shape, bool))
        return (state, after), row

    start = jax.vmap(playing.reset)(jax.random.split(reset_key, ENVS))
    _, rows = jax.lax.scan(step, start, jax.random.split(steps_key, STEPS))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)


def draw(rows: Transition, key: jax.Array, count: int) -> Transition:
    """Draws `count` rows at random."""
    chosen = jax.random.randint(key, (count,), 0, len(rows.reward))
    return jax.tree.map(lambda leaf: leaf[chosen], rows)


def variances(
    parts: actor_critic.ActorCritic,
    config: actor_critic.ActorCriticConfig,
    learner: actor_critic.ActorCriticState,
    rows: Transition,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Variances of values, of an own action's advantage and of the target over next actions, and the critics' squared error."""
    rows_key, actions_key = jax.random.split(key)
    batch = actor_critic.prepare(config, learner, draw(rows, rows_key, ROWS))
    features, num_actions = parts.distribution.features, parts.policy.apply(learner.policy, batch.observation).shape[-1]
    every = jnp.broadcast_to(jnp.arange(num_actions), (*batch.action.shape, num_actions))
    q = parts.critic.values(learner.critic, batch.observation, features(batch.action), every).q
    taken = jnp.take_along_axis(q, batch.action[..., None], -1)[..., 0]

    def target(key: jax.Array) -> jax.Array:
        action = jax.random.randint(key, batch.action.shape, 0, num_actions)
        value = parts.critic.values(learner.target_critic, batch.next_observation, features(action), action[..., None])
        return batch.reward + config.gamma * value.q[..., 0]

    targets = jax.vmap(target)(jax.random.split(actions_key, NEXT_ACTIONS))
    return {
        "value": taken.var(1).mean(),
        "advantage": jnp.square(q - q.mean(-1, keepdims=True)).mean(),
        "next_actions": targets.var(0, ddof=1).mean(),
        "error": jnp.square(taken - targets.mean(0)).mean() - targets.var(0, ddof=1).mean() / NEXT_ACTIONS,
    }


def measure(env: Environment, options: dict[str, Any]) -> dict[str, float]:
    """Variances after `UPDATES` updates. The policies keep their initial parameters and stay close to uniformly random."""
    config = actor_critic.ActorCriticConfig(policy_learning_rate=0.0, **{"gamma": 0.95, "tau": 0.05, **options})
    algorithm, parts = maac.make(env.spec), actor_critic.actor_critic(env.spec, config)
    rows_key, init_key, learn_key, test_key = jax.random.split(jax.random.key(0), 4)
    rows = jax.jit(lambda key: random_transitions(env, key))(rows_key)

    def update(learner: Any, key: jax.Array) -> tuple[Any, None]:
        batch_key, update_key = jax.random.split(key)
        return algorithm.update(config, learner, draw(rows, batch_key, BATCH), update_key)[0], None

    learner = algorithm.init(config, init_key)
    learner, _ = jax.jit(lambda learner, keys: jax.lax.scan(update, learner, keys))(
        learner, jax.random.split(learn_key, UPDATES)
    )
    found = jax.jit(lambda learner, key: variances(parts, config, learner, rows, key))(learner, test_key)
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    """Measures the variances of all settings, prints and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    env = envs_jax.make("spread", num_agents=3)
    result: dict[str, Any] = {"machine": describe_machine(), "updates": UPDATES, "variances": {}}
    for name, options in SETTINGS.items():
        result["variances"][name] = measure(env, options)
        print(name, result["variances"][name], flush=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
