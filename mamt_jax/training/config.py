"""Settings of a training run, and the schedule that follows from them."""

import dataclasses
import math
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from mamt_jax.algorithms.base import Data
from mamt_jax.validation import LARGEST

Precision = Literal["default", "bfloat16"]
EvaluationPolicy = Literal["greedy", "sampled"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of training, which are static in JAX. The defaults are those of the paper (Table 1)."""

    episodes: int = 50_000
    """Length of training in full-length episodes, summed over the parallel environments of a run."""
    seed: int = 0
    """Seed of the first run. Further seeds count up from it."""
    num_envs: int = 12
    """Parallel environments per run."""
    update_interval: int = 100
    """Environment steps between two groups of updates."""
    num_updates: int = 4
    """Updates per group. On-policy algorithms always make one."""
    buffer_size: int = 1_000_000
    """Transitions that the replay memory holds."""
    batch_size: int = 1024
    """Transitions in a batch. Updates begin once the replay memory holds one batch.
    On-policy algorithms do not use it."""
    n_steps: int = 1
    """Number of rewards that a critic's target sums before it bootstraps. On-policy algorithms accept only 1."""
    evaluation_interval: int = 500
    """Episodes between evaluations."""
    evaluation_episodes: int = 100
    """Episodes in an evaluation."""
    evaluation_policy: EvaluationPolicy = "greedy"
    """How policies act in the evaluations that select the best policy. `eval_return_sampled` is recorded in either case."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints. 0 writes one after every slice of training."""
    devices_per_run: int = 0
    """Most devices that may share one run, where there are more devices than runs. 0 means all on accelerators, and 1 on CPUs.
    As many are used as divide num_envs equally. Results then differ by rounding."""
    precision: Precision = "default"
    """Precision of the inputs of all matrix products in updates: JAX's default, or bfloat16. Sums are float32."""


class Schedule(NamedTuple):
    """A training run in iterations of `rollout_length` steps of all environments, followed by `updates` updates.

    Attributes:
        rollout_length: steps of each environment in an iteration.
        updates: updates in an iteration, once the replay memory holds a batch.
        transitions: transitions that an iteration adds.
        replay_iterations: iterations that the replay memory holds.
        warmup_iterations: number of first iterations, which make no updates.
        evaluation_iterations: iterations between evaluations.
        total_iterations: iterations of the whole run.
    """

    rollout_length: int
    updates: int
    transitions: int
    replay_iterations: int
    warmup_iterations: int
    evaluation_iterations: int
    total_iterations: int

    @property
    def capacity(self) -> int:
        """Transitions that the replay memory holds."""
        return self.replay_iterations * self.transitions

    def env_steps(self, iterations: int) -> int:
        """Environment steps of one run after `iterations` iterations."""
        return iterations * self.transitions

    def num_updates(self, iterations: int) -> int:
        """Updates of one run after `iterations` iterations."""
        return max(0, iterations - self.warmup_iterations) * self.updates


def make_schedule(config: TrainingConfig, episode_limit: int, data: Data = "replay") -> Schedule:
    """Schedules a run in the smallest iterations that have the requested ratio of updates to environment steps.

    For example, 12 environments with 4 updates per 100 environment steps give iterations of 25 steps and 12 updates. On-policy
    algorithms make one update per iteration of about `update_interval` environment steps.
    """
    ratio = Fraction(config.num_updates * config.num_envs, config.update_interval)
    if data == "rollout":
        ratio = Fraction(1, max(1, round(config.update_interval / config.num_envs)))
    transitions = ratio.denominator * config.num_envs
    total_iterations = math.ceil(config.episodes * episode_limit / transitions)
    return Schedule(
        rollout_length=ratio.denominator,
        updates=ratio.numerator,
        transitions=transitions,
        replay_iterations=min(math.ceil(config.buffer_size / transitions), total_iterations) if data == "replay" else 1,
        warmup_iterations=math.ceil(config.batch_size / transitions) - 1 if data == "replay" else 0,
        evaluation_iterations=max(1, round(config.evaluation_interval * episode_limit / transitions)),
        total_iterations=total_iterations,
    )


def validate(config: TrainingConfig, episode_limit: int, data: Data = "replay") -> None:
    """Raises ValueError if a setting is not valid; the message names the option, its value and what would be right."""
    words = {"precision": get_args(Precision), "evaluation_policy": get_args(EvaluationPolicy)}
    for name, choices in words.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name}={getattr(config, name)} is not valid: give one of {', '.join(choices)}.")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in words:
            continue
        smallest = 0 if field.name in ("seed", "checkpoint_minutes", "devices_per_run") else 1
        if not math.isfinite(value) or value < smallest:
            raise ValueError(f"{field.name}={value} is not valid: give a number of at least {smallest}.")
        if value > LARGEST:
            raise ValueError(f"{field.name}={value} is not valid: give a number of at most {LARGEST}.")
    if config.batch_size > config.buffer_size:
        raise ValueError(
            f"batch_size={config.batch_size} is larger than buffer_size={config.buffer_size}: "
            f"lower batch_size to at most {config.buffer_size} or raise buffer_size."
        )
    if config.episodes < config.num_envs:
        raise ValueError(
            f"episodes={config.episodes} is fewer than num_envs={config.num_envs}: each environment plays at least one "
            f"episode. Give episodes={config.num_envs} or more, or fewer environments."
        )
    schedule = make_schedule(config, episode_limit, data)
    if schedule.total_iterations <= schedule.warmup_iterations:
        enough = math.ceil((schedule.warmup_iterations + 1) * schedule.transitions / episode_limit)
        raise ValueError(
            f"episodes={config.episodes} ends before the replay memory holds one batch of batch_size={config.batch_size}: "
            f"give episodes={enough} or more, or a smaller batch_size."
        )
    _check_counters(config, episode_limit, schedule)


def _check_counters(config: TrainingConfig, episode_limit: int, schedule: Schedule) -> None:
    """Raises ValueError if a counter on the device would exceed int32."""
    steps = f"steps of each environment, with episode_limit={episode_limit}"
    for option, value, what, count in (
        ("update_interval", config.update_interval, "transitions in an iteration", schedule.transitions),
        ("episodes", config.episodes, steps, schedule.total_iterations * schedule.rollout_length),
        ("buffer_size", config.buffer_size, "transitions in whole iterations", schedule.capacity),
        ("num_updates", config.num_updates, "updates in an iteration", schedule.updates),
    ):
        if count > LARGEST:
            raise ValueError(
                f"{option}={value} is not valid: it makes {count} {what}. Give a value that makes at most {LARGEST}."
            )
