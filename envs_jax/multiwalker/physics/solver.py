"""Solver in generalized velocities, which satisfy the joints exactly. Few sweeps over motors and contacts converge.

Arrays have the batch as their last axis.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import NUM_BODIES, NUM_JOINTS
from envs_jax.multiwalker.physics import articulation, contact_solver
from envs_jax.multiwalker.physics.articulation import Part, make_motors, make_tree
from envs_jax.multiwalker.physics.contact_detection import Contacts, Touching, ground_slots
from envs_jax.multiwalker.physics.contact_solver import NEAR_ENOUGH, find_again, make_package_rows, make_rows, warm_start
from envs_jax.multiwalker.physics.masked_loops import only_where, while_any
from envs_jax.multiwalker.physics.world import Control, Solver, World, fall, move

FAR_APART = 0.02
MEET_AT_A_TIME, AGAIN_AT_A_TIME = 1 / 32, 1 / 16  # of a batch: touching neighbours; these and joints that are far apart


@flax.struct.dataclass
class Impulses:
    """Accumulated impulses of a step, for the warm start of the next one. Codes are feature ids of contacts.

    Attributes:
        motor: (4, n, E), of motors and limits.
        ground: (K, 2, n, E), along the tangent and along the normal.
        package: (2 points, 2, n, E).
        neighbours: (2 points, 2, n - 1, E).
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


def no_impulses(num_walkers: int, slots: int, batch: int) -> Impulses:
    """Impulses at the start of an episode, which are zeros."""
    n = num_walkers
    shapes = [(NUM_JOINTS, n), (slots, 2, n), (2, 2, n), (2, 2, n - 1), (slots, n), (2, n), (2, n - 1)]
    return Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))


def solve(world: World, control: Control, touch: Touching, package: model.Package, solver: Solver) -> World:
    """World after a step, without landings of legs."""
    ground = ground_slots(touch, solver.slots)
    velocity, package_velocity, impulses, motors = _solve_velocities(world, control, touch, ground, package, solver)
    velocity = jnp.where(control.present, velocity, 0.0)
    moved = move(world.pose, velocity), move(world.package_pose, package_velocity)
    pose, package_pose = _solve_positions(world, *moved, touch, ground, motors.limits, control.present, package, solver)
    return World(pose, velocity, package_pose, package_velocity, impulses)


def _meet(touch: Touching) -> jax.Array:
    """Whether any neighbours touch, (E,) bool. This is rare, and only these columns are solved with contacts of neighbours."""
    return (touch.neighbours[0].code > 0).any((0, 1))


class _Rows(NamedTuple):
    """Constraints of the velocity sweeps."""

    motors: articulation.Motors
    ground: contact_solver.Rows
    package: contact_solver.PackageRows


class _Pairs(NamedTuple):
    """Jacobian rows of the left and the right walker of each pair of neighbours, and their common inverse effective mass."""

    left: contact_solver.Rows
    right: contact_solver.Rows
    gain: jax.Array


class _Swept(NamedTuple):
    """Variables of the velocity sweeps: generalized velocity, velocity of the package, accumulated impulses."""

    free: jax.Array
    carried: jax.Array
    motor: jax.Array
    ground: jax.Array
    package: jax.Array
    neighbours: jax.Array


def _solve_velocities(
    world: World, control: Control, touch: Touching, points: Contacts, package: model.Package, solver: Solver
) -> tuple[jax.Array, jax.Array, Impulses, articulation.Motors]:
    """Velocities of bodies and package at the end of the step, accumulated impulses, and motors."""
    tree = separately(make_tree, world.pose[2])
    motors = separately(make_motors, tree, world.pose[2], control.action)
    ground = separately(make_rows, tree, points)
    on_package = separately(
        lambda tree, contacts, arm: make_package_rows(tree, contacts, arm, package), tree, touch.package, touch.package_arm
    )
    velocity, carried = fall(world, control.push)
    free, old = separately(articulation.to_free, tree, velocity), world.impulses
    found = (
        separately(find_again, points.code, old.ground_code, old.ground),
        separately(find_again, touch.package.code, old.package_code, old.package),
        separately(find_again, touch.neighbours[0].code, old.neighbours_code, old.neighbours),
    )
    free = free + fold(jnp.add, (motors.response[:, j] * each for j, each in enumerate(old.motor)))
    free = warm_start(ground, free, found[0])
    free = warm_start(on_package.walker, free, found[1])
    carried = carried + (on_package.response * found[1].swapaxes(0, 1)[None]).sum((1, 2, 3))

    rows, start = _Rows(motors, ground, on_package), _Swept(free, carried, old.motor, found[0], found[1], found[2])
    swept = _sweep(rows, None, start, solver.velocity_sweeps)
    swept = only_where(
        _meet(touch),
        lambda given, _: _sweep_together(*given, sweeps=solver.velocity_sweeps),
        (rows, tree, touch.neighbours, start),
        swept,
        MEET_AT_A_TIME,
    )
    codes = points.code, touch.package.code, touch.neighbours[0].code
    impulses = Impulses(swept.motor, swept.ground, swept.package, swept.neighbours, *codes)
    return separately(articulation.to_bodies, tree, swept.free), swept.carried, impulses, motors


def _sweep_together(
    rows: _Rows, tree: articulation.Tree, neighbours: tuple[Contacts, Contacts], start: _Swept, sweeps: int
) -> _Swept:
    """As `_sweep`, with contacts of neighbours."""
    left, right = (separately(make_rows, _part(tree, side), neighbours[side]) for side in (0, 1))
    gain = 2 * (left.gain + right.gain)
    pairs = _Pairs(contact_solver.pad_rows(left, 0, 1), contact_solver.pad_rows(right, 1, 0), gain)
    free = warm_start(pairs.left, start.free, jnp.pad(start.neighbours, ((0, 0), (0, 0), (0, 1), (0, 0))))
    free = warm_start(pairs.right, free, jnp.pad(start.neighbours, ((0, 0), (0, 0), (1, 0), (0, 0))))
    return _sweep(rows, pairs, start._replace(free=free), sweeps)


def _sweep(rows: _Rows, pairs: _Pairs | None, start: _Swept, sweeps: int) -> _Swept:
    """Velocity sweeps over all motors and contacts. Contacts of neighbours are included if `pairs` is not None."""

    def again(_: jax.Array, carry: tuple) -> tuple:
        free, carried, motor, on_ground, of_package, of_pairs = carry
        free, motor = articulation.sweep_motors(rows.motors, free, motor)
        free, carried, of_package = separately(contact_solver.sweep_package, rows.package, free, carried, of_package)
        if pairs is not None:
            free, of_pairs = contact_solver.sweep_neighbours(*pairs, free, of_pairs)
        free, on_ground = contact_solver.sweep_ground(rows.ground, free, on_ground)
        return free, carried, motor, on_ground, of_package, of_pairs

    free, *others = jax.lax.fori_loop(0, sweeps, again, (start.free, *(list(each) for each in start[1:])))
    carried, motor, on_ground, of_package, of_pairs = (jnp.stack(each) for each in others)
    return _Swept(free, carried, motor, on_ground, of_package, of_pairs)


def _part(tree: articulation.Tree, side: int) -> articulation.Tree:
    """Articulations of the left (0) or the right (1) walkers of all pairs of neighbours."""
    return jax.tree.map(lambda leaf: leaf[1:] if side else leaf[:-1], tree)


class _Fixed(NamedTuple):
    """Constants of the position sweeps: poses at the beginning of the step, contacts, and limits."""

    pose: jax.Array
    package_pose: jax.Array
    touch: Touching
    ground: Contacts
    limits: articulation.Limits


class _Places(NamedTuple):
    """Variables of the position sweeps.

    Attributes:
        pose: (3, 5, n, E).
        package_pose: (3, E).
        active: (n, E) bool, walkers that need further sweeps.
        gap: (n, E), largest gap between anchors of a joint.
        count: (E,) int32, number of sweeps so far.
    """

    pose: jax.Array
    package_pose: jax.Array
    active: jax.Array
    gap: jax.Array
    count: jax.Array


def _solve_positions(
    world: World,
    pose: jax.Array,
    package_pose: jax.Array,
    touch: Touching,
    ground: Contacts,
    limits: articulation.Limits,
    present: jax.Array,
    package: model.Package,
    solver: Solver,
) -> tuple[jax.Array, jax.Array]:
    """Poses of walkers and package after position correction of joints and contacts."""
    fixed, meet = _Fixed(world.pose, world.package_pose, touch, ground, limits), _meet(touch)
    start = _Places(pose, package_pose, present, jnp.zeros(present.shape), jnp.zeros(meet.shape, jnp.int32))
    places = _settle(fixed, start, solver, package, pairs=False)
    again = jax.tree.map(functools.partial(jnp.where, meet), start, places)
    settle = functools.partial(_settle, solver=solver, package=package, pairs=True)
    places = only_where(meet | places.active.any(0), settle, fixed, again, AGAIN_AT_A_TIME)
    return places.pose, places.package_pose


def _settle(fixed: _Fixed, places: _Places, solver: Solver, package: model.Package, pairs: bool) -> _Places:
    """Runs position sweeps while any walker is active. With `pairs`, contacts of neighbours are corrected, too.

    After `position_sweeps`, only worlds in which joints are still far apart continue.
    """
    touch, carrying = fixed.touch, (fixed.touch.package.code > 0).any(0)

    def sweep(places: _Places) -> _Places:
        active, moved = places.active, places.pose - fixed.pose
        change, deepest = separately(contact_solver.push_from_ground, fixed.ground, moved)
        from_package, its_change, on_package = contact_solver.push_from_package(
            touch.package, touch.package_arm, package, moved, places.package_pose - fixed.package_pose
        )
        change, deepest = change + from_package, jnp.minimum(deepest, on_package)
        if pairs:
            from_pairs, of_pairs = contact_solver.push_from_neighbours(*touch.neighbours, moved)
            change, deepest = change + from_pairs, jnp.minimum(deepest, of_pairs)
        pushed = places.pose + change
        parts = [Part(*pushed[:, b]) for b in range(NUM_BODIES)]
        parts, good, gap = separately(articulation.pull_together, parts, fixed.limits, active)
        good &= deepest >= NEAR_ENOUGH
        wrong_together = (carrying & ~good & active).any(0)
        carried, count = (carrying & active).any(0), places.count + 1
        active &= (~good | (carrying & wrong_together)) & (count < solver.most_position_sweeps)
        far = (active & (gap > FAR_APART)).any(0)
        return _Places(
            pose=jnp.where(places.active, jnp.stack([jnp.stack(part) for part in parts], 1), places.pose),
            package_pose=jnp.where(carried, places.package_pose + its_change, places.package_pose),
            active=active & ((count != solver.position_sweeps) | far),
            gap=gap,
            count=count,
        )

    sweeps = solver.most_position_sweeps if pairs else solver.position_sweeps
    return while_any(sweeps, lambda places: places.active, sweep, places)
