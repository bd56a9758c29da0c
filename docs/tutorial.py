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
# This notebook steps an environment, trains two seeds of MA-PPO on it, plays what they have learnt, and evaluates
# one equation of the paper. It takes two minutes on two CPU cores. It runs from top to bottom whenever the
# documentation is built.
#
# <a href="https://colab.research.google.com/">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"></a>
# <a href="tutorial.ipynb" download>Download the notebook</a> and open it in Jupyter, or upload it to Colab. There it
# needs the package: upload a wheel (`pip wheel --no-deps .` in a clone) and install it with `%pip install`.

# %%
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
# `reset` and `step` are pure: they receive a state and return the next one. Randomness is a key. Arrays have an
# agent axis. There are no dictionaries.

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
# `vmap` makes a thousand environments of one.

# %%
states, timesteps = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 1000))
print(timesteps.observation.shape)

# %% [markdown]
# Every environment has reference policies: random, do-nothing, and a scripted one that sees the state.

# %%
for name, reference in envs_jax.reference_policies(env).items():
    result = envs_jax.evaluate_policy(env, reference, jax.random.key(0), 1000)
    print(f"{name:12} {result['return']:7.2f} ± {result['return_std_error']:.2f}")

# %% [markdown]
# ## Train
#
# Two seeds of MA-PPO train side by side in one compiled program. The folder holds everything that they leave.

# %%
folder = Path(tempfile.mkdtemp()) / "spread_mappo"
run = mamt_jax.train("spread", "mappo", seeds=2, episodes=8_000, evaluation_interval=1_000, out=folder)
print(*sorted(path.name for path in folder.iterdir()), sep="\n")

# %% [markdown]
# `run.metrics()` returns one dict for every evaluation and run. `run.plot()` draws the learning curve.

# %%
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for number, style in enumerate(("-", "--")):
    rows = [row for row in run.metrics() if row["run"] == number]
    axes.plot(
        *zip(*[(row["episodes"], row["eval_return"]) for row in rows], strict=True), style, color="C0", label=f"seed {number}"
    )
axes.set(xlabel="episodes", ylabel="greedy return per agent and episode")
axes.legend()

# %% [markdown]
# ## Play
#
# A policy is a function from observations to actions. It needs neither the environment nor the algorithm.
# `envs_jax.rollout` plays with it, and can be jitted and vmapped.

# %%
policy = run.policy("best")
result = mamt_jax.evaluate(policy, env, jax.random.key(7), episodes=500)
print(f"return over 500 episodes: {result['return']:.2f} ± {result['return_se']:.2f}")

states, timesteps = envs_jax.rollout(env, lambda observation, key: policy(observation), jax.random.key(7), num_steps=25)

# %%
pictures = frames(env, states, size=240)
figure, panels = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained")
for axes, moment in zip(panels, (0, 6, 12, 24), strict=True):
    axes.imshow(pictures[moment])
    axes.set_title(f"step {moment + 1}")
    axes.axis("off")

# %% [markdown]
# ## One equation, one function
#
# MAMD differs from MAAC in the regulariser of the policy gradient (Eq. 10): the log-ratio of an action's
# probabilities under the new and the old policy, divided by the size of the agent's trust region. In a small trust
# region the same change costs more.

# %%
from mamt_jax.losses.actor import trust_region_penalty  # noqa: E402

old = jnp.log(jnp.array([0.25, 0.25, 0.25, 0.25]))
new = jnp.log(jnp.array([0.55, 0.15, 0.15, 0.15]))
for epsilon in (0.1, 1.0, 10.0):
    penalty = trust_region_penalty(new[None, None], old[None, None], jnp.array([epsilon]), 0.2)[0, 0]
    print(f"epsilon {epsilon:5.1f}   penalty of every action {penalty}")

# %% [markdown]
# MAMT learns one epsilon per agent. Continue with [Your own environment](own_environment.md), [Your own
# algorithm](own_algorithm.md) or [Many runs](many_runs.md).
