"""Checks the paper's theory on tabular games: Fig. 8, Theorems 1 to 3, and the error of estimates of the joint divergence.

python experiments/theory.py
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimation
from mamt_jax.divergence import joint_divergence, others_divergence, own_divergence, transition_divergence
from mamt_jax.training.run_folder import describe_machine, write_json

OUT = Path(__file__).parent / "results" / "theory.json"
FIRST_STATE = np.array([[0.4, 0.2], [0.5, 0.7]])
"""App. D: probability of next state s_1, by action of agent 1 (row) and of agent 2 (column). The other next state is s_2."""
PROBABILITIES = np.linspace(0.02, 0.98, 49)
EPISODES, REPEATS = 10_000, 50
GAMES = 2_000
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def game() -> jax.Array:
    """Transition probabilities of App. D's game, (own action, other's action, next state)."""
    return jnp.stack([jnp.asarray(FIRST_STATE), 1 - jnp.asarray(FIRST_STATE)], -1).astype(jnp.float32)


def policies(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Agent 2's policies before and after the change, (m, 1 - m) and (m / 2, 1 - m / 2)."""
    return jnp.stack([m, 1 - m]), jnp.stack([m / 2, 1 - m / 2])


def closed_form(m: float) -> tuple[float, float]:
    """App. D's formulas for agent 1's first action: (KL of transitions, KL of policies) in nats."""
    transition = 0.2 * (1 + m) * np.log((2 + 2 * m) / (2 + m)) + 0.2 * (4 - m) * np.log((8 - 2 * m) / (8 - m))
    policy = m * np.log(2) + (1 - m) * np.log((2 - 2 * m) / (2 - m))
    return float(transition), float(policy)


def simulated(key: jax.Array, m: jax.Array, action: int, episodes: int = EPISODES) -> tuple[jax.Array, jax.Array]:
    """KL between frequencies in `episodes` plays before and after the change: (of next states, of agent 2's actions)."""

    def play(key: jax.Array, policy: jax.Array) -> tuple[jax.Array, jax.Array]:
        action_key, state_key = jax.random.split(key)
        other = jax.random.categorical(action_key, jnp.log(policy), shape=(episodes,))
        state = jax.random.categorical(state_key, jnp.log(game()[action])[other])
        return jnp.bincount(state, length=2) / episodes, jnp.bincount(other, length=2) / episodes

    before, after = (play(k, policy) for k, policy in zip(jax.random.split(key), policies(m), strict=True))
    return joint_divergence(before[0], after[0]), joint_divergence(before[1], after[1])


def figure_8() -> dict[str, Any]:
    """KL of policies and of transitions over m, for both actions of agent 1, exact and simulated."""
    m = jnp.asarray(PROBABILITIES, jnp.float32)
    exact = jax.vmap(lambda m: transition_divergence(game(), *policies(m)))(m)
    policy = jax.vmap(lambda m: joint_divergence(*policies(m)))(m)
    drawn = m[4::8]
    keys = jax.random.split(jax.random.key(0), (len(drawn), REPEATS))
    play = jax.jit(jax.vmap(jax.vmap(simulated, (0, None, None)), (0, 0, None)), static_argnums=2)
    rows = {}
    for action, name in enumerate(("a11", "a12")):
        states, _ = play(keys, drawn, action)
        ratio = exact[:, action] / policy
        rows[name] = {
            "transition_kl": exact[:, action].tolist(),
            "simulated_mean": states.mean(1).tolist(),
            "simulated_std": states.std(1, ddof=1).tolist(),
            "ratio_min": float(ratio.min()),
            "ratio_max": float(ratio.max()),
        }
    simulation = {"m": drawn.tolist(), "episodes": EPISODES, "repeats": REPEATS}
    return {"m": m.tolist(), "policy_kl": policy.tolist(), "simulation": simulation, "actions": rows}


def quantiles(values: jax.Array) -> dict[str, float]:
    """Minimum, 5 %, median, 95 % and maximum of the values."""
    return {f"{q:g}": float(np.quantile(np.asarray(values), q)) for q in QUANTILES}


def theorem_1(key: jax.Array) -> dict[str, Any]:
    """Ratios of transition KL to the KL of the others' joint policy in random games; all equal if these were proportional."""

    def ratio(key: jax.Array) -> jax.Array:
        transition_key, *policy_keys = jax.random.split(key, 3)
        transition = jax.random.dirichlet(transition_key, jnp.ones(4), (1, 9))
        others = [jax.random.dirichlet(k, jnp.ones(9)) for k in policy_keys]
        return transition_divergence(transition, *others)[0] / joint_divergence(*others)

    ratios = jax.jit(jax.vmap(ratio))(jax.random.split(key, GAMES))
    return {"games": GAMES, "others": "two agents of 3 actions", "states": 4, "ratio": quantiles(ratios)}


def theorem_2(key: jax.Array, num_agents: int, factorised: bool) -> dict[str, Any]:
    """Ratios of the others' mean divergence and of the mean-field sum to the joint divergence, for random pairs of policies."""

    def draw(key: jax.Array) -> jax.Array:
        if not factorised:
            return jax.random.dirichlet(key, jnp.full(3**num_agents, 0.5)).reshape((3,) * num_agents)
        joint = jnp.ones(())
        for own in jax.random.dirichlet(key, jnp.ones(3), (num_agents,)):
            joint = joint[..., None] * own
        return joint

    def ratios(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy, previous = (draw(k) for k in jax.random.split(key))
        joint = joint_divergence(policy, previous)
        return others_divergence(policy, previous).mean() / joint, own_divergence(policy, previous).sum() / joint

    others, own = jax.jit(jax.vmap(ratios))(jax.random.split(key, GAMES))
    return {
        "num_agents": num_agents,
        "factorised": factorised,
        "pairs": GAMES,
        "violations": int((others > 1 + 1e-5).sum()),
        "others_over_joint": quantiles(others),
        "mean_field_over_joint": quantiles(own),
    }


def main() -> None:
    """Computes all checks and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    kinds = [(n, factorised) for factorised in (False, True) for n in (2, 3, 4)]
    content = {
        "figure_8": figure_8(),
        "theorem_1": theorem_1(jax.random.key(1)),
        "theorem_2": [theorem_2(jax.random.key(2 + i), *kind) for i, kind in enumerate(kinds)],
        "estimation": estimation.compare(jax.random.key(10)),
        "machine": describe_machine(),
    }
    write_json(out, content)
    print(f"Wrote {out}. `python experiments/figures.py` draws it and prints its tables.")


if __name__ == "__main__":
    main()
