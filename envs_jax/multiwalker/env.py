"""Multi-Walker (Gupta et al., 2017) as in pettingzoo's multiwalker_v9: walkers carry a package over rough ground."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import batch_last
from envs_jax.environment import Box, Environment, EnvSpec, TimeStep, make_timestep
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import HULL
from envs_jax.multiwalker.observation import NUM_NOISY, SIZE, observe
from envs_jax.multiwalker.physics import simulation
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT, NUM_TOUCHABLE
from envs_jax.multiwalker.physics.world import Control, Solver, World, initial_world
from envs_jax.multiwalker.render import picture
from envs_jax.multiwalker.scripted import stand
from envs_jax.scene import Scene
from envs_jax.validation import require_choice, require_count, require_number, require_switch

MAX_PUSH = 5.0  # N
FORWARD, UPRIGHT = 130 / model.SCALE, -5.0
GOAL = 10  # distance of the goal from the end, in points of the ground


@flax.struct.dataclass
class MultiWalkerState:
    """State of Multi-Walker.

    Attributes:
        world: poses and velocities of all bodies, `envs_jax.multiwalker.physics.world.World` without its batch axis.
        heights: (T,), heights of the ground at points 0.47 m apart.
        push: (n,) float32, force in newtons along x on each hull in the first step.
        fallen: (n,) bool, walkers whose hull has touched the ground or another walker.
        dropped: () bool, whether the package has touched the ground or a leg.
        feet: (k, 2, n) int32, what the lower legs touched at the end of the last step, as in `simulation.StepContacts`.
        flags: (2, n) bool, contact flags of the feet.
        step: () int32.
    """

    world: World
    heights: jax.Array
    push: jax.Array
    fallen: jax.Array
    dropped: jax.Array
    feet: jax.Array
    flags: jax.Array
    step: jax.Array


class Rules(NamedTuple):
    """Options of `multiwalker`, and values that are derived from them."""

    spec: EnvSpec
    package: model.Package
    solver: Solver
    position_noise: float
    angle_noise: float
    forward_reward: float
    terminate_reward: float
    fall_reward: float
    shared_reward: bool
    terminate_on_fall: bool
    remove_on_fall: bool
    terrain_length: int
    original_rules: bool


def _observe(rules: Rules, state: MultiWalkerState, present: jax.Array, noise: jax.Array) -> jax.Array:
    """Observations (n, 31, E) with the standard normal `noise` (n, 7, E)."""
    deviation = jnp.asarray([rules.position_noise] * (NUM_NOISY - 1) + [rules.angle_noise], jnp.float32)[:, None, None]
    noise = noise.swapaxes(0, 1) * deviation
    return observe(state.world, state.flags, present, state.heights, noise, rules.package.length).swapaxes(0, 1)


def contact_flags(flags: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
    """Contact flags as in the original, (2, n, E): set when any contact begins, and cleared when any contact ends.

    Contacts that continue have no effect. If several contacts begin or end, the last one decides. Box2D processes edges of the
    ground mostly from right to left, and after all other bodies.

    Args:
        flags: (2, n, E) bool, flags so far.
        before: (k, 2, n, E) int32, what was touched: edges of the ground from 0, other bodies below 0, `NO_CONTACT` for none.
        now: (k, 2, n, E) int32, what is touched, in the same numbers.
    """
    other, never = np.iinfo(np.int32).max - 1, np.iinfo(np.int32).max

    def last(ones: jax.Array, others: jax.Array) -> jax.Array:
        """Number of the last of `ones` that is not among `others`. Smaller numbers are later, `never` means none."""
        new = (ones != NO_CONTACT) & ~(ones[:, None] == others[None]).any(1)
        return jnp.where(new, jnp.where(ones < 0, other, ones), never).min(0)

    began, ended = last(now, before), last(before, now)
    return jnp.where((began == never) & (ended == never), flags, began < ended)


def follow_flags(flags: jax.Array, feet: jax.Array, met: simulation.StepContacts) -> jax.Array:
    """Contact flags as in the original after a step. Before it the lower legs touched `feet` (k, 2, n, E)."""
    return contact_flags(contact_flags(flags, feet, met.feet), met.feet, met.feet_after)


def present_walkers(rules: Rules, fallen: jax.Array) -> jax.Array:
    """Walkers that have not been removed, with the shape of `fallen`."""
    return ~fallen if rules.remove_on_fall else jnp.ones_like(fallen)


class Outcome(NamedTuple):
    """Rewards and terminations of a step, (n, E) each."""

    reward: jax.Array
    terminated: jax.Array


def judge(rules: Rules, before: World, after: World, fell: jax.Array, fallen: jax.Array, dropped: jax.Array) -> Outcome:
    """Computes rewards and terminations of a step.

    Args:
        rules: the rules.
        before: world before the step.
        after: world after the step.
        fell: (n, E) bool, walkers that fell in this step.
        fallen: (n, E) bool, walkers that fell in this step or before.
        dropped: (E,) bool, whether the package has touched the ground or a leg.
    """
    there = present_walkers(rules, fallen & ~fell)  # walkers that fell in this step are removed after it
    tilt = jnp.abs(after.pose[2, HULL]) - jnp.abs(before.pose[2, HULL])
    own = jnp.where(there, UPRIGHT * tilt, 0.0)
    own += FORWARD * rules.forward_reward * (after.package_pose[0] - before.package_pose[0])
    penalty = rules.fall_reward + (0.0 if rules.terminate_on_fall else rules.terminate_reward)
    own += jnp.where(fallen if rules.original_rules else fell, penalty, 0.0)
    lost = dropped | (after.package_pose[0] < 0) | (fallen.any(0) if rules.terminate_on_fall else False)
    won = after.package_pose[0] > (rules.terrain_length - GOAL) * terrain.STEP
    own += jnp.where(lost, rules.terminate_reward, 0.0)
    reward = jnp.broadcast_to(own.mean(0), own.shape) if rules.shared_reward else own
    return Outcome(reward, fallen | lost | won)


def _start(rules: Rules) -> float:
    """Initial x of the package, in metres."""
    return terrain.START / 2 * terrain.STEP * (1 + rules.spec.num_agents) / 2


def _advance(
    state: MultiWalkerState, action: jax.Array, noise: jax.Array, rules: Rules
) -> tuple[MultiWalkerState, jax.Array, Outcome, jax.Array]:
    """Takes a step with the batch as last axis; returns state, observations, outcome and displacement."""
    present = present_walkers(rules, state.fallen)
    push = jnp.where(state.step == 0, state.push, 0.0)
    control = Control(jnp.clip(action.swapaxes(0, 1), -1.0, 1.0), push, present)
    before = state.world
    world, met = simulation.step(before, control, state.heights, rules.package, rules.solver)
    fell = met.fallen & present & ~state.fallen
    fallen, dropped = state.fallen | fell, state.dropped | met.dropped
    flags = follow_flags(state.flags, state.feet, met) if rules.original_rules else (met.feet_after != NO_CONTACT).any(0)
    state = dataclasses.replace(
        state,
        world=world,
        fallen=fallen,
        dropped=dropped,
        feet=met.feet_after,
        flags=flags,
        step=state.step + 1,
    )
    outcome = judge(rules, before, world, fell, fallen, dropped)
    displacement = world.package_pose[0] - _start(rules)
    return state, _observe(rules, state, present, noise), outcome, displacement


def _transition(
    state: MultiWalkerState, action: jax.Array, noise: jax.Array, rules: Rules
) -> tuple[MultiWalkerState, TimeStep]:
    state, observation, outcome, displacement = batch_last(functools.partial(_advance, rules=rules))(state, action, noise)
    truncated = (state.step >= rules.spec.episode_limit) & ~outcome.terminated.all()
    ended = outcome.terminated
    # All flags are equal in this case. The broadcast lets `infer_spec` detect it.
    terminated = jnp.broadcast_to(ended[0], ended.shape) if rules.terminate_on_fall else ended
    metrics = {"displacement": displacement}
    return state, make_timestep(rules.spec, observation, outcome.reward, terminated, truncated, metrics=metrics)


def _open(bits: jax.Array, push: jax.Array, noise: jax.Array, rules: Rules) -> tuple[MultiWalkerState, jax.Array]:
    """First state and observation from random bits (T, E), pushes (n, E) and noise (n, 7, E)."""
    n, batch = push.shape
    nothing = jnp.zeros((n, batch), bool)
    state = MultiWalkerState(
        world=initial_world(n, rules.solver, batch),
        heights=terrain.heights(*terrain.draws(bits)),
        push=push,
        fallen=nothing,
        dropped=jnp.zeros(batch, bool),
        feet=jnp.full((NUM_TOUCHABLE, 2, n, batch), NO_CONTACT, jnp.int32),
        flags=jnp.zeros((2, n, batch), bool),
        step=jnp.zeros(batch, jnp.int32),
    )
    return state, _observe(rules, state, ~nothing, noise)


def _reset(key: jax.Array, rules: Rules) -> tuple[MultiWalkerState, TimeStep]:
    ground_key, push_key, noise_key = jax.random.split(key, 3)
    n = rules.spec.num_agents
    bits = jax.random.bits(ground_key, (rules.terrain_length,), jnp.uint32)
    push = jax.random.uniform(push_key, (n,), jnp.float32, -MAX_PUSH, MAX_PUSH)
    push = jnp.full_like(push, push[0]) if rules.original_rules else push
    noise = jax.random.normal(noise_key, (n, NUM_NOISY), jnp.float32)
    state, observation = batch_last(functools.partial(_open, rules=rules))(bits, push, noise)
    return state, make_timestep(rules.spec, observation, metrics={"displacement": jnp.zeros(())})


def _sample_noise(key: jax.Array, state: MultiWalkerState) -> jax.Array:
    return jax.random.normal(key, (*state.fallen.shape, NUM_NOISY), jnp.float32)


def _scene(state: MultiWalkerState, rules: Rules) -> Scene:
    world = state.world
    present, start = np.asarray(present_walkers(rules, state.fallen)), _start(rules)
    caption = f"step {state.step}    package moved {float(world.package_pose[0]) - start:z.1f} m"
    pose, package_pose, heights = (np.asarray(part) for part in (world.pose, world.package_pose, state.heights))
    return picture(rules.package, pose, package_pose, heights, present, start, caption)


def _spec(num_walkers: int, episode_limit: int) -> EnvSpec:
    return EnvSpec(
        name="multiwalker",
        agent_names=tuple(f"walker_{i}" for i in range(num_walkers)),
        observation_sizes=(SIZE,) * num_walkers,
        action_spaces=(Box(4),) * num_walkers,
        episode_limit=episode_limit,
        last_metrics=("displacement",),
    )


COUNTS = ("num_walkers", "episode_limit", "terrain_length")
SWITCHES = ("shared_reward", "terminate_on_fall", "remove_on_fall", "original_rules")


def _rules(solver: str, **options: Any) -> Rules:
    """Makes the Rules of the options of `multiwalker`; raises ValueError if an option has a value that is not allowed."""
    require_choice("solver", solver, simulation.SOLVERS)
    for name, value in options.items():
        require = require_count if name in COUNTS else require_switch if name in SWITCHES else require_number
        require(name, value)
    num_walkers, episode_limit = options.pop("num_walkers"), options.pop("episode_limit")
    package = model.make_package(num_walkers)
    return Rules(_spec(num_walkers, episode_limit), package, simulation.SOLVERS[solver], **options)


def multiwalker(
    num_walkers: int = 3,
    episode_limit: int = 500,
    position_noise: float = 1e-3,
    angle_noise: float = 1e-3,
    forward_reward: float = 1.0,
    terminate_reward: float = -100.0,
    fall_reward: float = -10.0,
    shared_reward: bool = True,
    terminate_on_fall: bool = True,
    remove_on_fall: bool = True,
    terrain_length: int = 200,
    original_rules: bool = False,
    solver: str = "fast",
) -> Environment:
    """Multi-Walker: bipedal walkers carry a package over rough ground, as in PettingZoo's multiwalker_v9.

    - observation: 31 entries per walker: angle, spin and velocity of the hull; for each leg, angle and speed of hip and knee,
      and the contact flag of the foot; ten lidar rays, which see the ground, own legs and other walkers; relative positions of
      the left and the right neighbour (zeros if there is none) and of the package; angle of the package. The last seven entries
      have noise. A removed walker observes zeros.
    - action: 4 numbers from -1 to 1, float32: hip and knee of each leg. The sign is the direction of the motor, the absolute
      value scales its torque.
    - reward: `forward_reward` times 4.33 per metre that the package moves forward, and -5 per radian by which the hull's
      absolute angle grows; `fall_reward` for a fall; `terminate_reward` for all walkers when the episode fails. With
      `shared_reward` all walkers receive the mean.
    - termination: the episode fails if a hull touches anything but the package, if the package touches anything but a hull, or
      if the package leaves the ground at the left. It succeeds if the package reaches the goal. With `terminate_on_fall` False,
      a fall terminates only the walker. Truncated after `episode_limit` steps.
    - state: `MultiWalkerState`. The noise is standard normal, (n, 7), for the last seven observation entries.

    The rules are those of multiwalker_v9. The time limit truncates here, and terminates in the original. `original_rules`
    removes three more differences:

    - A fall is penalized once. In the original, if falls do not end the episode, a fallen walker receives `fall_reward` and
      `terminate_reward` again in every later step.
    - Each walker has its own random push at the start. In the original all walkers have the same push.
    - The contact flag of a foot says whether the foot touches anything. In the original the flag is cleared when any contact of
      the foot ends, even if others continue.

    Metric: `displacement`, the distance in metres by which the package has moved, of which an episode reports the last value.

    Args:
        num_walkers: number of walkers, which are the agents.
        episode_limit: number of steps after which an episode is truncated.
        position_noise: standard deviation of the noise of observed positions.
        angle_noise: standard deviation of the noise of the package's observed angle.
        forward_reward: weight of the package's forward movement in the reward.
        terminate_reward: reward of all walkers when the episode fails, by a fall or by the package. If falls do not end the
            episode, a fallen walker also receives it for its fall.
        fall_reward: reward of a walker for a fall.
        shared_reward: whether all walkers receive the mean of the individual rewards.
        terminate_on_fall: whether a fall of one walker ends the episode for all.
        remove_on_fall: whether a fallen walker is removed, if its fall does not end the episode.
        terrain_length: length of the ground in steps of 0.47 m.
        original_rules: whether falls, pushes and contact flags follow the original, as above.
        solver: "fast", or "original", which applies impulses in the order and number of Box2D. With the latter, nearly every
            step ends in the original's state, but it is several times slower.

    Raises:
        ValueError: if an option has a value that is not allowed.
    """
    rules = _rules(**locals())
    return Environment(
        spec=rules.spec,
        reset=functools.partial(_reset, rules=rules),
        transition=functools.partial(_transition, rules=rules),
        sample_noise=_sample_noise,
        scripted=stand,
        scene=functools.partial(_scene, rules=rules),
    )
