"""Compares our Multi-Walker with the original step by step: poses after one step, and extremes under random actions.

python experiments/multiwalker_parity.py

It needs the extra `pettingzoo` and writes experiments/results/multiwalker_parity.json.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs_jax
from envs_jax import auto_reset
from envs_jax.environment import Policy
from envs_jax.multiwalker import model
from envs_jax.multiwalker.env import follow_flags
from envs_jax.multiwalker.model import COLLISION_MARGIN
from envs_jax.multiwalker.physics import simulation
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT, NUM_TOUCHABLE, detect_contacts, ground_contact_points
from envs_jax.multiwalker.physics.world import Solver
from envs_jax.reference_policies import sample_action
from mamt_jax.training.run_folder import describe_machine
from multiwalker_states import GROUND_POINTS, Compared, column, control, feet_flags, read_bodies, read_world
from multiwalker_statistics import TRAINED, policies

RESULTS = Path(__file__).parent / "results"
N, NEAR, AT_ONCE = 3, 1e-3, 10_000
COMPARED = (
    (simulation.ORIGINAL, 180),
    (simulation.FAST, 180),
    (simulation.FAST._replace(velocity_iterations=1000, position_iterations=60, ground_points=GROUND_POINTS), 2000),
)
"""Our solver, and the number of velocity iterations of the original, whose default is 180."""
StepAct = Callable[[int, int, Any], jax.Array]
"""(seed of the episode, number of the step, observations (n, d)) -> actions (n, 4)."""


class FixedIterations:
    """A Box2D world that solves velocities with a given number of iterations."""

    def __init__(self, world: Any, iterations: int) -> None:
        self.__dict__.update(world=world, iterations=iterations)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    def Step(self, time_step: float, velocity_iterations: int, position_iterations: int) -> None:  # noqa: N802
        """Makes a step of the Box2D world, with our number of velocity iterations."""
        self.world.Step(time_step, self.iterations, position_iterations)


def compiled(act: Policy) -> StepAct:
    """Compiles a policy into a function of the episode's seed, the step and the observations."""

    def program(seed: int, number: int, seen: jax.Array) -> jax.Array:
        return act(seen, jax.random.fold_in(jax.random.key(seed), number))

    return jax.jit(program)


def play(act: StepAct, seed: int, iterations: int, steps: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Plays an episode of the original; yields its inner environment before each step, and the action (n, 4)."""
    from pettingzoo.sisl.multiwalker.multiwalker import parallel_env

    env: Any = parallel_env(n_walkers=N)
    seen, _ = env.reset(seed=seed)
    inside = env.unwrapped.env
    inside.world = FixedIterations(inside.world, iterations)
    for number in range(steps):
        if len(env.agents) < N:
            return
        action = np.asarray(act(seed, number, np.stack([*seen.values()])))
        yield inside, action
        seen, *_ = env.step(dict(zip(env.possible_agents, action, strict=True)))


def differences(step: Any, solver: Solver, act: StepAct, seed: int, iterations: int, steps: int) -> list[Compared]:
    """Compares our step from each state of an episode of the original with the original's own step."""
    found, impulses, predicted = [], None, None
    flags, feet = jnp.zeros((2, N, 1), bool), jnp.full((NUM_TOUCHABLE, 2, N, 1), NO_CONTACT)
    push = float(np.random.Generator(np.random.PCG64(seed)).uniform(-5, 5))
    for inside, action in play(act, seed, iterations, steps):
        before = read_world(inside, solver, impulses)
        if predicted is not None:
            same_flags = feet_flags(inside) == np.asarray(flags[..., 0])
            found.append(Compared(np.abs(predicted - np.asarray(before.pose[..., 0])).max(0), same_flags))
        after, met = step(before, control(action, 0.0 if impulses else push), column(inside.terrain_y))
        flags, feet = follow_flags(flags, feet, met), met.feet_after
        impulses, predicted = after.impulses, np.asarray(after.pose[..., 0])
    return found


def compare_steps(acts: dict[str, StepAct], episodes: int, steps: int) -> list[dict[str, Any]]:
    """Shares of bodies, walkers and whole states that end a step within `NEAR` of the original, and of equal contact flags."""
    package, rows = model.make_package(N), []
    for solver, iterations in COMPARED:
        step = jax.jit(functools.partial(simulation.step, package=package, solver=solver))
        for policy, act in acts.items():
            found = [one for seed in range(episodes) for one in differences(step, solver, act, seed, iterations, steps)]
            wrong = np.array([one.pose for one in found])
            ours = {"solver": "original" if solver.solve is simulation.ORIGINAL.solve else "fast"}
            ours |= {"velocity_iterations": solver.velocity_iterations, "position_iterations": solver.position_iterations}
            row = {"ours": ours, "original_velocity_iterations": iterations, "policy": policy, "states": len(wrong)}
            of = {"bodies": wrong, "walkers": wrong.max(1), "whole_states": wrong.max((1, 2))}
            row |= {name: float((values < NEAR).mean()) for name, values in of.items()}
            rows.append(row | {"flags": float(np.mean([one.flags for one in found]))})
            print(rows[-1], flush=True)
    return rows


def extremes(pose: jax.Array, velocity: jax.Array, package_pose: jax.Array, heights: jax.Array) -> dict[str, jax.Array]:
    """Largest overlap in m, speed in m/s and spin in rad/s, (E,) each, of worlds with the batch as last axis."""
    touch = detect_contacts(model.make_package(N), pose, package_pose, jnp.ones(pose.shape[2:], bool), heights)
    points = ground_contact_points(touch, GROUND_POINTS), touch.package, touch.neighbours[0]
    apart = [jnp.where(c.feature_id > 0, c.separation, 0.0).min((0, 1)) for c in points]
    speed = jnp.hypot(velocity[0], velocity[1]).max((0, 1))
    return {
        "overlap": jnp.maximum(-(jnp.stack(apart).min(0) + COLLISION_MARGIN), 0.0),
        "speed": speed,
        "spin": jnp.abs(velocity[2]).max((0, 1)),
    }


def endure(envs: int, steps: int) -> dict[str, np.ndarray]:
    """`extremes` of our environment under random actions, (steps * envs,) each."""
    env = auto_reset(envs_jax.make("multiwalker"))
    own = jnp.broadcast_to(env.spec.action_mask, (envs, *env.spec.action_mask.shape))

    def advance(state: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        act_key, step_key = jax.random.split(key)
        state, _ = jax.vmap(env.step)(jax.random.split(step_key, envs), state, sample_action(env.spec, act_key, own))
        world = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), state.world)
        return state, extremes(world.pose, world.velocity, world.package_pose, state.heights.T)

    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), envs))
    with jax.numpy_rank_promotion("allow"):
        found = jax.jit(lambda state, keys: jax.lax.scan(advance, state, keys)[1])(
            state, jax.random.split(jax.random.key(1), steps)
        )
    return {name: np.asarray(values).ravel() for name, values in found.items()}


def endure_original(act: StepAct, steps: int) -> dict[str, np.ndarray]:
    """`extremes` of the original with the policy `act`, (steps,) each."""
    worlds = (
        (*read_bodies(inside)[:3], np.array(inside.terrain_y))
        for seed in itertools.count()
        for inside, _ in play(act, seed, 180, 500)
    )
    program, found = jax.jit(extremes), []
    with jax.numpy_rank_promotion("allow"):
        for start in range(0, steps, AT_ONCE):
            some = itertools.islice(worlds, min(AT_ONCE, steps - start))
            found.append(program(*(jnp.asarray(np.stack(arrays, -1), jnp.float32) for arrays in zip(*some, strict=True))))
    return {name: np.concatenate([np.asarray(each[name]) for each in found]) for name in found[0]}


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Counts of steps and of values that are not finite, and quantiles and maxima of `extremes`."""
    result: dict[str, Any] = {"steps": len(found["overlap"])}
    result["not_finite"] = int(sum((~np.isfinite(values)).sum() for values in found.values()))
    result["overlap_over_0.1"] = float((found["overlap"] > 0.1).mean())
    for name, values in found.items():
        result[name] = {"99.9%": float(np.quantile(values, 0.999)), "largest": float(values.max())}
    return result


def main() -> None:
    """Measures parity and extremes, prints and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8, help="episodes that each policy plays in the original (default 8)")
    parser.add_argument("--steps", type=int, default=150, help="maximum number of steps in such an episode (default 150)")
    parser.add_argument(
        "--endurance",
        type=int,
        nargs=3,
        default=(256, 3907, 100_000),
        help="number of environments, of their steps, and of the original's steps",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "multiwalker_parity.json")
    asked = parser.parse_args()
    found = policies(envs_jax.make("multiwalker"), {"trained here": TRAINED["trained here"]})
    acts = {name: compiled(act) for name, act in found.items()}
    envs, steps, of_original = asked.endurance
    content = {
        "command": "python experiments/multiwalker_parity.py",
        "machine": describe_machine(),
        "steps": compare_steps(acts, asked.episodes, asked.steps),
        "endurance": {"ours": summary(endure(envs, steps)), "original": summary(endure_original(acts["random"], of_original))},
    }
    asked.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["endurance"]))


if __name__ == "__main__":
    main()
