# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial
#
# An environment, a training run, what it has learnt, and one equation. Two minutes on two cores; this page is a
# notebook, run from top to bottom whenever the documentation is built.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import envs_jax
import mamt_jax
from envs_jax.rendering import frames

# %% [markdown]
# ## An environment is two functions
#
# `reset` and `step` are pure: a state goes in, a state comes out, and chance is a key. Arrays have an agent
# axis; there are no dictionaries.

# %%
env = envs_jax.make("spread")
state, timestep = env.reset(jax.random.key(0))
action = jnp.zeros(env.spec.num_agents, jnp.int32)
state, timestep = env.step(jax.random.key(1), state, action)
print("agents       ", env.spec.agent_names)
print("observation  ", timestep.observation.shape)
print("reward       ", timestep.reward)
print("truncated    ", timestep.truncated, " terminated", timestep.terminated)

# %% [markdown]
# Being pure, a thousand of them are one `vmap` away.

# %%
states, timesteps = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 1000))
print(timesteps.observation.shape)

# %% [markdown]
# Policies to compare with come with every environment: random, doing nothing, and a scripted one that sees the
# state.

# %%
for name, reference in envs_jax.reference_policies(env).items():
    result = envs_jax.evaluate_policy(env, reference, jax.random.key(0), 1000)
    print(f"{name:12} {result['return']:7.2f} ± {result['return_std_error']:.2f}")

# %% [markdown]
# ## A training run is one command
#
# MA-PPO with two seeds, which train side by side in one compiled program. The folder it leaves holds
# everything.

# %%
folder = Path(tempfile.mkdtemp()) / "spread_mappo"
options = "--env spread --algo mappo --gamma 0.95 --hidden-size 64 --seeds 2 --episodes 8000 --evaluation-interval 1000"
command = [sys.executable, "-m", "mamt_jax", "train", *options.split(), "--out", folder]
subprocess.run(command, check=True, capture_output=True)
print(*sorted(path.name for path in folder.iterdir()), sep="\n")

# %% [markdown]
# `metrics.jsonl` has an object for every evaluation and run.

# %%
rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for run, style in enumerate(("-", "--")):
    points = [(row["episodes"], row["eval_return"]) for row in rows if row["run"] == run]
    episodes, returns = zip(*points, strict=True)
    axes.plot(episodes, returns, style, color="C0", label=f"seed {run}")
axes.set(xlabel="episodes", ylabel="greedy return per agent and episode")
axes.legend()

# %% [markdown]
# ## What it has learnt
#
# A function from observations to actions. It needs neither the environment nor the algorithm.

# %%
policy = mamt_jax.load_policy(folder)


def play(key: jax.Array) -> tuple:
    """States of one episode, and the return of every agent."""
    reset_key, steps_key = jax.random.split(key)
    state, timestep = env.reset(reset_key)

    def step(carry: tuple, key: jax.Array) -> tuple:
        state, observation = carry
        state, timestep = env.step(key, state, policy(observation))
        return (state, timestep.observation), (state, timestep.reward)

    keys = jax.random.split(steps_key, env.spec.episode_limit)
    _, (states, reward) = jax.lax.scan(step, (state, timestep.observation), keys)
    return states, reward.sum(0)


states, returns = jax.vmap(play)(jax.random.split(jax.random.key(7), 500))
print("return of each agent over 500 episodes:", returns.mean(0))

# %%
pictures = frames(env, jax.tree.map(lambda x: x[0], states), size=240)
figure, panels = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained")
for axes, moment in zip(panels, (0, 6, 12, 24), strict=True):
    axes.imshow(pictures[moment])
    axes.set_title(f"step {moment + 1}")
    axes.axis("off")

# %% [markdown]
# ## One equation, one function
#
# What tells MAMD from MAAC is the regulariser of the policy gradient (Eq. 10): how much likelier an action has
# become than under the old policy, over the size of the agent's trust region. A small trust region makes the
# same change expensive.

# %%
from mamt_jax.losses.actor import trust_region_penalty  # noqa: E402

old = jnp.log(jnp.array([0.25, 0.25, 0.25, 0.25]))
new = jnp.log(jnp.array([0.55, 0.15, 0.15, 0.15]))
for epsilon in (0.1, 1.0, 10.0):
    penalty = trust_region_penalty(new[None, None], old[None, None], jnp.array([epsilon]), 0.2)[0, 0]
    print(f"epsilon {epsilon:5.1f}   penalty of every action {penalty}")

# %% [markdown]
# MAMT learns epsilon, one an agent. From here: your own environment and your own algorithm on the front page,
# and [Many runs](many_runs.md) for sweeps.
