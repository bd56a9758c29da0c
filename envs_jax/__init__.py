"""Multi-agent environments as pure JAX functions. The package does not depend on any learning algorithm."""

from envs_jax.conformance import check_environment
from envs_jax.environment import (
    Box,
    Discrete,
    Environment,
    EnvironmentFactory,
    EnvSpec,
    Policy,
    TimeStep,
    make_timestep,
    no_noise,
)
from envs_jax.reference_policies import do_nothing_policy, random_policy, reference_policies, scripted_policy
from envs_jax.registry import environment_names, make
from envs_jax.rendering import render
from envs_jax.rollout import evaluate_policy, rollout
from envs_jax.wrappers import EpisodeStatistics, auto_reset, episode_statistics

__all__ = [
    "Box",
    "Discrete",
    "EnvSpec",
    "Environment",
    "EnvironmentFactory",
    "EpisodeStatistics",
    "Policy",
    "TimeStep",
    "auto_reset",
    "check_environment",
    "do_nothing_policy",
    "environment_names",
    "episode_statistics",
    "evaluate_policy",
    "make",
    "make_timestep",
    "no_noise",
    "random_policy",
    "reference_policies",
    "render",
    "rollout",
    "scripted_policy",
]


def __dir__() -> list[str]:
    return __all__
