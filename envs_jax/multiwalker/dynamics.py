"""A step of the world in the order of Box2D: contacts, speeds, places, and putting right what does not fit.

Arrays have the batch as their last axis.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import separately
from envs_jax.multiwalker import body, contacts, joints
from envs_jax.multiwalker.body import GRAVITY, LEGS, MASS, NUM_BODIES, NUM_JOINTS, TIME_STEP, single
from envs_jax.multiwalker.contacts import find_again, invert, make_package_rows, make_rows, warm_start
from envs_jax.multiwalker.impact import land
from envs_jax.multiwalker.joints import Part, make_motors, make_tree
from envs_jax.multiwalker.selecting import only_where
from envs_jax.multiwalker.touching import Touching, touching

FASTEST_MOVE, FASTEST_TURN = 2.0, np.pi / 2
NEAR_ENOUGH = -0.015
FAR_APART = 0.02
AT_A_TIME = 1 / 16  # of a batch


class Solver(NamedTuple):
    """How well a step is solved.

    Attributes:
        velocity_sweeps: passes over motors and contacts.
        position_sweeps: passes that put bodies back together, at most.
        slots: contacts of one walker with the ground, at most.
    """

    velocity_sweeps: int
    position_sweeps: int
    most_position_sweeps: int
    slots: int


@flax.struct.dataclass
class Impulses:
    """What held things in the last step, from which the next one starts; `code`s tell contacts from each other.

    Attributes:
        motor: (4, n, E).
        ground: (K, 2, n, E), along the ground and against it.
        package: (2, 2, n, E).
        neighbours: (2, 2, n - 1, E).
        ground_code: (K, n, E).
        package_code: (2, n, E).
        neighbours_code: (2, n - 1, E).
    """

    motor: jax.Array
    ground: jax.Array
    package: jax.Array
    neighbours: jax.Array
    ground_code: jax.Array
    package_code: jax.Array
    neighbours_code: jax.Array


@flax.struct.dataclass
class World:
    """Everything that moves. Bodies are where their centres of mass are.

    Attributes:
        pose: (3, 5, n, E), x, y and angle of every body of the walkers.
        velocity: (3, 5, n, E).
        package_pose: (3, E).
        package_velocity: (3, E).
        impulses: of the last step.
    """

    pose: jax.Array
    velocity: jax.Array
    package_pose: jax.Array
    package_velocity: jax.Array
    impulses: Impulses


def start(num_walkers: int, slots: int, batch: int) -> World:
    """How every episode begins: walkers hang over the start, the package over them."""
    from envs_jax.multiwalker.terrain import HEIGHT, START, STEP

    x = START / 2 * STEP * (1 + np.arange(num_walkers))
    y = HEIGHT + 2 * body.LEG_HEIGHT
    drop = np.array([0.0, *[-body.LEG_HEIGHT * part - body.LEG_DOWN for _ in range(2) for part in (0.5, 1.5)]])
    pose = np.zeros((3, NUM_BODIES, num_walkers))
    pose[0], pose[1], pose[2] = x, y + drop[:, None], body.START_ANGLE[:, None]
    pose[:2, 0] += body.HULL_CENTRE[:, None]
    package = np.array([x.mean(), HEIGHT + 3 * body.LEG_HEIGHT, 0.0])

    def spread(array: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(array, jnp.float32)[..., None], (*array.shape, batch))

    n = num_walkers
    shapes = [(NUM_JOINTS, n), (slots, 2, n), (2, 2, n), (2, 2, n - 1), (slots, n), (2, n), (2, n - 1)]
    impulses = Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))
    return World(spread(pose), spread(np.zeros_like(pose)), spread(package), spread(np.zeros(3)), impulses)


def step(
    world: World,
    action: jax.Array,
    push: jax.Array,
    heights: jax.Array,
    present: jax.Array,
    package: body.Package,
    solver: Solver,
) -> tuple[World, Touching]:
    """A fiftieth of a second.

    Args:
        world: before.
        action: (4, n, E), hip and knee of the two sides, from -1 to 1.
        push: (n, E), a force on the hulls along x.
        heights: (T, E), of the ground.
        present: (n, E) bool; other walkers stay where they are and touch nothing.
        package: what is carried.
        solver: how well to solve.

    Returns:
        The world after, and what touched at the beginning.
    """
    touch = touching(package, world.pose, world.package_pose, present, heights, solver.slots)
    velocity, package_velocity, impulses, motors = _solve_velocities(world, action, push, touch, package, solver)
    velocity = jnp.where(present, velocity, 0.0)
    pose, package_pose = _move(world.pose, velocity), _move(world.package_pose, package_velocity)
    pose, package_pose = _solve_positions(world, pose, package_pose, touch, motors, present, package, solver)
    legs, speeds = separately(land, heights, present, world.pose[:, LEGS], pose[:, LEGS], velocity[:, LEGS])
    pose, velocity = pose.at[:, LEGS].set(legs), velocity.at[:, LEGS].set(speeds)
    return World(pose, velocity, package_pose, package_velocity, impulses), touch


def _move(pose: jax.Array, velocity: jax.Array) -> jax.Array:
    """(3, ..., E) a step later; Box2D lets nothing move or turn further than this in one."""
    way = TIME_STEP * velocity
    far = jnp.sqrt(way[0] ** 2 + way[1] ** 2)
    slower = jnp.minimum(1.0, FASTEST_MOVE / jnp.maximum(far, 1e-9))
    return pose + jnp.stack([way[0] * slower, way[1] * slower, jnp.clip(way[2], -FASTEST_TURN, FASTEST_TURN)])


def _solve_velocities(
    world: World, action: jax.Array, push: jax.Array, touch: Touching, package: body.Package, solver: Solver
) -> tuple[jax.Array, jax.Array, Impulses, joints.Motors]:
    """Velocities of bodies and package after all impulses of the step, those impulses, and the motors they went through."""
    tree = separately(make_tree, world.pose[2])
    motors = separately(make_motors, tree, world.pose[2], action)
    ground = separately(make_rows, tree, touch.ground)
    on_package = separately(
        lambda tree, contacts, arm: make_package_rows(tree, contacts, arm, package), tree, touch.package, touch.package_arm
    )
    left, right = (separately(make_rows, _part(tree, side), touch.neighbours[side]) for side in (0, 1))
    ground_mass = invert(ground.gain)
    pair_mass = 0.5 * invert(left.gain + right.gain)
    left, right = contacts.pad_rows(left, 0, 1), contacts.pad_rows(right, 1, 0)

    velocity = world.velocity.at[1].add(TIME_STEP * GRAVITY).at[0, 0].add(push * single(TIME_STEP / MASS[0]))
    free = separately(joints.to_free, tree, velocity)
    carried = world.package_velocity.at[1].add(TIME_STEP * GRAVITY)

    old = world.impulses
    found = (
        find_again(touch.ground.code, old.ground_code, old.ground),
        find_again(touch.package.code, old.package_code, old.package),
        find_again(touch.neighbours[0].code, old.neighbours_code, old.neighbours),
    )
    free = free + (motors.response * old.motor[None]).sum(1)
    free = warm_start(ground, free, found[0])
    free = warm_start(on_package.walker, free, found[1])
    carried = carried + (on_package.response * found[1].swapaxes(0, 1)[None]).sum((1, 2, 3))
    free = warm_start(left, free, jnp.pad(found[2], ((0, 0), (0, 0), (0, 1), (0, 0))))
    free = warm_start(right, free, jnp.pad(found[2], ((0, 0), (0, 0), (1, 0), (0, 0))))

    def sweep(_: jax.Array, carry: tuple) -> tuple:
        free, carried, motor, on_ground, of_package, of_pairs = carry
        free, motor = joints.sweep_motors(motors, free, motor)
        free, carried, of_package = contacts.sweep_package(on_package, free, carried, of_package)
        free, of_pairs = contacts.sweep_neighbours(left, right, pair_mass, free, of_pairs)
        free, on_ground = contacts.sweep_ground(ground, ground_mass, free, on_ground)
        return free, carried, motor, on_ground, of_package, of_pairs

    carry = (free, list(carried), list(old.motor), *(list(impulse) for impulse in found))
    free, carried, *impulses = jax.lax.fori_loop(0, solver.velocity_sweeps, sweep, carry)
    carried, motor, on_ground, of_package, of_pairs = (jnp.stack(values) for values in (carried, *impulses))
    codes = touch.ground.code, touch.package.code, touch.neighbours[0].code
    return separately(joints.to_bodies, tree, free), carried, Impulses(motor, on_ground, of_package, of_pairs, *codes), motors


def _part(tree: joints.Tree, side: int) -> joints.Tree:
    """Of the left (0) or right (1) walkers of all pairs of neighbours."""
    return jax.tree.map(lambda leaf: leaf[1:] if side else leaf[:-1], tree)


class _Fixed(NamedTuple):
    """What the sweeps over positions read."""

    pose: jax.Array
    package_pose: jax.Array
    touch: Touching
    motors: joints.Motors


class _Places(NamedTuple):
    """Where walkers and package are by now.

    Attributes:
        pose: (3, 5, n, E).
        package_pose: (3, E).
        active: (n, E) bool, which walkers go on.
        gap: (n, E), how far their joints are apart.
    """

    pose: jax.Array
    package_pose: jax.Array
    active: jax.Array
    gap: jax.Array


def _solve_positions(
    world: World,
    pose: jax.Array,
    package_pose: jax.Array,
    touch: Touching,
    motors: joints.Motors,
    present: jax.Array,
    package: body.Package,
    solver: Solver,
) -> tuple[jax.Array, jax.Array]:
    """Poses in which joints hold and nothing overlaps by much, of walkers and package."""
    fixed = _Fixed(world.pose, world.package_pose, touch, motors)
    places = _settle(fixed, _Places(pose, package_pose, present, jnp.zeros(present.shape)), solver.position_sweeps, package)
    far = (places.active & (places.gap > FAR_APART)).any(0)
    further = functools.partial(_settle, sweeps=solver.most_position_sweeps - solver.position_sweeps, package=package)
    places = only_where(far, further, fixed, places, max(1, int(AT_A_TIME * len(far))))
    return places.pose, places.package_pose


def _settle(fixed: _Fixed, places: _Places, sweeps: int, package: body.Package) -> _Places:
    """Sweeps over positions while a walker is active."""
    touch, carrying = fixed.touch, (fixed.touch.package.code > 0).any(0)

    def sweep(places: _Places) -> _Places:
        active, moved = places.active, places.pose - fixed.pose
        change, deepest = contacts.push_from_ground(touch.ground, moved)
        from_package, its_change, on_package = contacts.push_from_package(
            touch.package, touch.package_arm, package, moved, places.package_pose - fixed.package_pose
        )
        from_pairs, of_pairs = contacts.push_from_neighbours(*touch.neighbours, moved)
        pushed = places.pose + jnp.where(active, change + from_package + from_pairs, 0.0)
        parts, good, gap = joints.pull_together([Part(*pushed[:, b]) for b in range(NUM_BODIES)], fixed.motors, active)
        good &= jnp.minimum(jnp.minimum(deepest, on_package), of_pairs) >= NEAR_ENOUGH
        wrong_together = (carrying & ~good & active).any(0)
        carried = (carrying & active).any(0)
        return _Places(
            pose=jnp.stack([jnp.stack(part) for part in parts], 1),
            package_pose=places.package_pose + jnp.where(carried, its_change, 0.0),
            active=active & (~good | (carrying & wrong_together)),
            gap=gap,
        )

    def again(carry: tuple[jax.Array, _Places]) -> jax.Array:
        return (carry[0] < sweeps) & carry[1].active.any()

    carry = jnp.zeros((), jnp.int32), places
    return jax.lax.while_loop(again, lambda carry: (carry[0] + 1, sweep(carry[1])), carry)[1]
