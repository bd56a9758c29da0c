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
from envs_jax.multiwalker import body, dynamics, terrain
from envs_jax.multiwalker.body import HULL
from envs_jax.multiwalker.gait import stand
from envs_jax.multiwalker.observation import NUM_NOISY, SIZE, observe
from envs_jax.multiwalker.picture import picture
from envs_jax.multiwalker.touching import NOTHING, NUM_TOUCHABLE
from envs_jax.multiwalker.world import SOLVERS, Control, Solver, World
from envs_jax.scene import Scene
from envs_jax.validation import require_choice, require_count, require_number, require_switch

LARGEST_PUSH = 5.0
FORWARD, UPRIGHT = 130 / body.SCALE, -5.0
GOAL = 10  # points of ground before the end


@flax.struct.dataclass
class MultiWalkerState:
    """Everything that Multi-Walker remembers.

    Attributes:
        world: what moves; `envs_jax.multiwalker.dynamics.World`, without its batch axis.
        heights: (T,), of the ground every 0.47 m.
        push: (n,) float32, newtons, along x on the hulls in the first step.
        fallen: (n,) bool, walkers whose hull has touched the ground or another walker.
        dropped: () bool, the package has touched the ground or a leg.
        feet: (k, 2, n) int32, what the lower legs touched last, as in `dynamics.Met`.
        flags: (2, n) bool, the feet's contact flags.
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
    """The options of `multiwalker`, and what follows from them."""

    spec: EnvSpec
    package: body.Package
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
    push: float | None
    same_push: bool
    falls_pay_again: bool
    contact_events: bool


def _scale(rules: Rules) -> jax.Array:
    """Standard deviations of the seven noisy observations, (7, 1, 1)."""
    deviation = [rules.position_noise] * (NUM_NOISY - 1) + [rules.angle_noise]
    return jnp.asarray(deviation, jnp.float32)[:, None, None]


def _observe(rules: Rules, state: MultiWalkerState, present: jax.Array, noise: jax.Array) -> jax.Array:
    """(n, 31, E)."""
    world = state.world
    seen = observe(
        world.pose,
        world.velocity,
        world.package_pose,
        state.flags,
        present,
        state.heights,
        noise * _scale(rules),
        rules.package.length,
    )
    return seen.swapaxes(0, 1)


def contact_flags(flags: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
    """The original's flags: set when any contact begins, cleared when any ends, whatever else goes on; (2, n, E).

    Of several, the last one tells: Box2D comes to edges mostly from the right, and to other things before.

    Args:
        flags: (2, n, E) bool, so far.
        before: (k, 2, n, E) int32, what was touched, negative for nothing.
        now: (k, 2, n, E), what is touched.
    """
    other, never = np.iinfo(np.int32).max - 1, np.iinfo(np.int32).max

    def last(ones: jax.Array, others: jax.Array) -> jax.Array:
        """The last of `ones` that is not among `others`."""
        new = (ones != NOTHING) & ~(ones[:, None] == others[None]).any(1)
        return jnp.where(new, jnp.where(ones < 0, other, ones), never).min(0)

    began, ended = last(now, before), last(before, now)
    return jnp.where((began == never) & (ended == never), flags, began < ended)


def follow_flags(flags: jax.Array, feet: jax.Array, met: dynamics.Met) -> jax.Array:
    """The original's flags after a step before which the lower legs touched `feet` (k, 2, n, E)."""
    return contact_flags(contact_flags(flags, feet, met.feet), met.feet, met.landed)


def present_walkers(rules: Rules, fallen: jax.Array) -> jax.Array:
    """Walkers that are not taken away."""
    return ~fallen if rules.remove_on_fall else jnp.ones_like(fallen)


class Outcome(NamedTuple):
    """What a step earns and ends; (n, E)."""

    reward: jax.Array
    terminated: jax.Array


def judge(rules: Rules, before: World, after: World, fell: jax.Array, fallen: jax.Array, dropped: jax.Array) -> Outcome:
    """Rewards and ends of a step.

    Args:
        rules: the rules.
        before: the world before.
        after: the world after.
        fell: (n, E) bool, walkers that fell in this step.
        fallen: (n, E) bool, walkers that have fallen at all.
        dropped: (E,) bool, the package lies on something.
    """
    there = present_walkers(rules, fallen & ~fell)  # who fell in this step is taken away after it
    tilt = jnp.abs(after.pose[2, HULL]) - jnp.abs(before.pose[2, HULL])
    own = jnp.where(there, UPRIGHT * tilt, 0.0)
    own += FORWARD * rules.forward_reward * (after.package_pose[0] - before.package_pose[0])
    penalty = rules.fall_reward + (0.0 if rules.terminate_on_fall else rules.terminate_reward)
    own += jnp.where(fallen if rules.falls_pay_again else fell, penalty, 0.0)
    lost = dropped | (after.package_pose[0] < 0) | (fallen.any(0) if rules.terminate_on_fall else False)
    won = after.package_pose[0] > (rules.terrain_length - GOAL) * terrain.STEP
    own += jnp.where(lost, rules.terminate_reward, 0.0)
    reward = jnp.broadcast_to(own.mean(0), own.shape) if rules.shared_reward else own
    return Outcome(reward, fallen | lost | won)


def _start(rules: Rules) -> float:
    """Where the package hangs at first."""
    return terrain.START / 2 * terrain.STEP * (1 + rules.spec.num_agents) / 2


def _advance(
    state: MultiWalkerState, action: jax.Array, noise: jax.Array, rules: Rules
) -> tuple[MultiWalkerState, jax.Array, Outcome, jax.Array]:
    """State, observations, rewards and ends, and the metric, all with the batch as last axis."""
    present = present_walkers(rules, state.fallen)
    push = jnp.where(state.step == 0, state.push, 0.0)
    control = Control(jnp.clip(action.swapaxes(0, 1), -1.0, 1.0), push, present)
    before = state.world
    world, met = dynamics.step(before, control, state.heights, rules.package, rules.solver)
    fell = met.fallen & present & ~state.fallen
    fallen, dropped = state.fallen | fell, state.dropped | met.dropped
    state = dataclasses.replace(
        state,
        world=world,
        fallen=fallen,
        dropped=dropped,
        feet=met.landed,
        flags=_flags(rules, state, met),
        step=state.step + 1,
    )
    outcome = judge(rules, before, world, fell, fallen, dropped)
    displacement = world.package_pose[0] - _start(rules)
    return state, _observe(rules, state, present, noise.swapaxes(0, 1)), outcome, displacement


def _flags(rules: Rules, state: MultiWalkerState, met: dynamics.Met) -> jax.Array:
    if not rules.contact_events:
        return (met.landed != NOTHING).any(0)
    return follow_flags(state.flags, state.feet, met)


def _transition(
    state: MultiWalkerState, action: jax.Array, noise: jax.Array, rules: Rules
) -> tuple[MultiWalkerState, TimeStep]:
    state, observation, outcome, displacement = batch_last(functools.partial(_advance, rules=rules))(state, action, noise)
    truncated = (state.step >= rules.spec.episode_limit) & ~outcome.terminated.all()
    ended = outcome.terminated
    # All flags are equal then. A broadcast shows it, and `infer_spec` finds it.
    terminated = jnp.broadcast_to(ended[0], ended.shape) if rules.terminate_on_fall else ended
    metrics = {"displacement": displacement}
    return state, make_timestep(rules.spec, observation, outcome.reward, terminated, truncated, metrics=metrics)


def _open(bits: jax.Array, push: jax.Array, noise: jax.Array, rules: Rules) -> tuple[MultiWalkerState, jax.Array]:
    """The first state and observation from random bits (T, E), pushes (n, E) and noise (n, 7, E)."""
    n, batch = push.shape
    nothing = jnp.zeros((n, batch), bool)
    state = MultiWalkerState(
        world=dynamics.start(n, rules.solver, batch),
        heights=terrain.heights(*terrain.draws(bits)),
        push=push,
        fallen=nothing,
        dropped=jnp.zeros(batch, bool),
        feet=jnp.full((NUM_TOUCHABLE, 2, n, batch), NOTHING, jnp.int32),
        flags=jnp.zeros((2, n, batch), bool),
        step=jnp.zeros(batch, jnp.int32),
    )
    return state, _observe(rules, state, ~nothing, noise.swapaxes(0, 1))


def _reset(key: jax.Array, rules: Rules) -> tuple[MultiWalkerState, TimeStep]:
    ground_key, push_key, noise_key = jax.random.split(key, 3)
    n = rules.spec.num_agents
    bits = jax.random.bits(ground_key, (rules.terrain_length,), jnp.uint32)
    push = jax.random.uniform(push_key, (n,), jnp.float32, -LARGEST_PUSH, LARGEST_PUSH)
    push = jnp.full_like(push, push[0]) if rules.same_push else push
    push = push if rules.push is None else jnp.full_like(push, rules.push)
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


COUNTS = (
    "num_walkers",
    "episode_limit",
    "terrain_length",
    "velocity_sweeps",
    "position_sweeps",
    "most_position_sweeps",
    "ground_contacts",
)
SWITCHES = ("shared_reward", "terminate_on_fall", "remove_on_fall", "same_push", "falls_pay_again", "contact_events")
MAY_BE_NONE = ("push", "velocity_sweeps", "position_sweeps")


def _check(solver: str, **options: Any) -> None:
    """Raises ValueError if an option of `multiwalker` has a value that is not allowed."""
    require_choice("solver", solver, SOLVERS)
    for name, value in options.items():
        if value is None and name in MAY_BE_NONE:
            continue
        require = require_count if name in COUNTS else require_switch if name in SWITCHES else require_number
        require(name, value)


def _rules(options: dict[str, Any]) -> Rules:
    """Options of `multiwalker` as rules."""
    sweeps = {name: options[name] for name in ("velocity_sweeps", "position_sweeps") if options[name] is not None}
    fixed = {"most_position_sweeps": options["most_position_sweeps"], "slots": options["ground_contacts"]}
    own = {
        "spec": _spec(options["num_walkers"], options["episode_limit"]),
        "package": body.make_package(options["num_walkers"]),
        "solver": SOLVERS[options["solver"]]._replace(**sweeps, **fixed),
    }
    return Rules(**{name: value for name, value in options.items() if name in Rules._fields} | own)


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
    push: float | None = None,
    same_push: bool = False,
    falls_pay_again: bool = False,
    contact_events: bool = False,
    solver: str = "fast",
    velocity_sweeps: int | None = None,
    position_sweeps: int | None = None,
    most_position_sweeps: int = 60,
    ground_contacts: int = 6,
) -> Environment:
    """Multi-Walker: walkers on two legs carry a package over rough ground; the rules of multiwalker_v9, its physics rebuilt.

    - observation: 31 each: hull's angle, spin and velocity; angle and speed of hip and knee and the foot's contact, of either
      leg; ten rays of lidar, which see the ground, own legs and other walkers; where the left and the right neighbour are
      (zeros for none), where the package is, its angle, the last seven with noise. Zeros for a walker that was taken away.
    - action: four, float32: hip and knee of either leg, sign and strength of the motor, from -1 to 1.
    - reward: how much further the package has come (4.33 a metre) and how much more upright the hull is (5 a radian);
      `fall_reward` for falling, `terminate_reward` for all when a fall or the package ends the episode; the mean over walkers
      where `shared_reward`.
    - termination: a hull touches anything but the package, or the package anything but a hull, or it leaves the ground at the
      left, or it arrives; truncated after `episode_limit` steps.
    - state: `MultiWalkerState`. Noise: standard normal (n, 7), of the last seven observations.

    What the original does differently, unless an option says otherwise:

    - its time limit looks like a termination; here it truncates, always.
    - a fallen walker pays `fall_reward` and `terminate_reward` again in every later step where falls do not end the episode;
      here once, unless `falls_pay_again`.
    - all walkers get the same push at the start, and, after one reset with a seed, all episodes; here each its own, unless
      `same_push`, which is for all walkers of an episode, or `push` is given.
    - a foot's flag drops when any contact of it ends, though others go on; here it says whether the foot touches anything,
      unless `contact_events`.

    Metric: `displacement`, how far the package was carried, in metres, of an episode its last value.

    Args:
        num_walkers: walkers, the agents.
        episode_limit: steps before truncation.
        position_noise: standard deviation of the noise of observed positions.
        angle_noise: standard deviation of the noise of the package's observed angle.
        forward_reward: weight of the package's way forward in the reward.
        terminate_reward: reward of each walker for ending the episode by a fall.
        fall_reward: reward of a walker for falling.
        shared_reward: whether all walkers receive the mean of their rewards.
        terminate_on_fall: whether one walker's fall ends the episode for all.
        remove_on_fall: whether a fallen walker is taken away where its fall does not end the episode.
        terrain_length: length of the ground in steps of 0.47 m.
        push: force on every hull in the first step, in newtons; None for each its own, uniform from -5 to 5.
        same_push: whether all walkers of an episode get the same push.
        falls_pay_again: whether a fall is penalized in every later step, too.
        contact_events: whether the feet's flags follow beginnings and ends of contacts.
        solver: "fast", or "original": by the impulses, the order and the counts of Box2D, which ends nearly every step where
            the original does and takes several times as long.
        velocity_sweeps: passes over motors and contacts in a step of the solver; None for 30, or the original's 180.
        position_sweeps: passes that put bodies back together in a step, at most; None for 8, or the original's 60.
        most_position_sweeps: as many where a walker's joints are still 2 cm apart after those; of the fast solver alone.
        ground_contacts: points in which one walker touches the ground, at most; of the fast solver alone.

    Raises:
        ValueError: if an option has a value that is not allowed.
    """
    options = dict(locals())
    _check(**options)
    return _environment(_rules(options))


def _environment(rules: Rules) -> Environment:
    """Multi-Walker under `rules`."""
    return Environment(
        spec=rules.spec,
        reset=functools.partial(_reset, rules=rules),
        transition=functools.partial(_transition, rules=rules),
        sample_noise=_sample_noise,
        scripted=stand,
        scene=functools.partial(_scene, rules=rules),
    )
