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
from envs_jax.multiwalker.physics.articulation import (
    Articulation,
    Limits,
    Motors,
    Part,
    correct_joints,
    make_articulation,
    make_motors,
    solve_motors,
    to_bodies,
    to_generalized,
)
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts, ground_contact_points
from envs_jax.multiwalker.physics.contact_solver import (
    MIN_SEPARATION,
    ContactRows,
    PackageRows,
    correct_ground_contacts,
    correct_neighbour_contacts,
    correct_package_contacts,
    make_contact_rows,
    make_package_rows,
    match_warm_start,
    pad_rows,
    solve_ground_contacts,
    solve_neighbour_contacts,
    solve_package_contacts,
    warm_start,
)
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any
from envs_jax.multiwalker.physics.world import Control, Solver, World, integrate_positions, integrate_velocities

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
        ground_feature_ids: (K, n, E).
        package_code: (2, n, E).
        neighbours_code: (2, n - 1, E).
    """

    motor: jax.Array
    ground: jax.Array
    package: jax.Array
    neighbours: jax.Array
    ground_feature_ids: jax.Array
    package_code: jax.Array
    neighbours_code: jax.Array


def no_impulses(num_walkers: int, ground_points: int, batch: int) -> Impulses:
    """Impulses at the start of an episode, which are zeros."""
    n = num_walkers
    shapes = [(NUM_JOINTS, n), (ground_points, 2, n), (2, 2, n), (2, 2, n - 1), (ground_points, n), (2, n), (2, n - 1)]
    return Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, without landings of legs."""
    ground = ground_contact_points(contacts, solver.ground_points)
    velocity, package_velocity, impulses, motors = _solve_velocities(world, control, contacts, ground, package, solver)
    velocity = jnp.where(control.present, velocity, 0.0)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    pose, package_pose = _solve_positions(world, *moved, contacts, ground, motors.limits, control.present, package, solver)
    return World(pose, velocity, package_pose, package_velocity, impulses)


def _meet(contacts: Contacts) -> jax.Array:
    """Whether any neighbours touch, (E,) bool. This is rare, and only these columns are solved with contacts of neighbours."""
    return (contacts.neighbours[0].feature_id > 0).any((0, 1))


class _Rows(NamedTuple):
    """Constraints of the velocity sweeps."""

    motors: Motors
    ground: ContactRows
    package: PackageRows


class _Pairs(NamedTuple):
    """Jacobian rows of the left and the right walker of each pair of neighbours, and their common inverse effective mass."""

    left: ContactRows
    right: ContactRows
    inv_effective_mass: jax.Array


class _VelocityState(NamedTuple):
    """Variables of the velocity sweeps: generalized velocity, velocity of the package, accumulated impulses."""

    qvel: jax.Array
    carried: jax.Array
    motor: jax.Array
    ground: jax.Array
    package: jax.Array
    neighbours: jax.Array


def _solve_velocities(
    world: World, control: Control, contacts: Contacts, points: ContactPoints, package: model.Package, solver: Solver
) -> tuple[jax.Array, jax.Array, Impulses, Motors]:
    """Velocities of bodies and package at the end of the step, accumulated impulses, and motors."""
    articulation = separately(make_articulation, world.pose[2])
    motors = separately(make_motors, articulation, world.pose[2], control.action)
    ground = separately(make_contact_rows, articulation, points)
    on_package = separately(
        lambda articulation, points, r: make_package_rows(articulation, points, r, package),
        articulation,
        contacts.package,
        contacts.package_arm,
    )
    velocity, carried = integrate_velocities(world, control.push)
    qvel, old = separately(to_generalized, articulation, velocity), world.impulses
    found = (
        separately(match_warm_start, points.feature_id, old.ground_feature_ids, old.ground),
        separately(match_warm_start, contacts.package.feature_id, old.package_code, old.package),
        separately(match_warm_start, contacts.neighbours[0].feature_id, old.neighbours_code, old.neighbours),
    )
    qvel = qvel + fold(jnp.add, (motors.inv_mass_jacobian[:, j] * each for j, each in enumerate(old.motor)))
    qvel = warm_start(ground, qvel, found[0])
    qvel = warm_start(on_package.walker, qvel, found[1])
    carried = carried + (on_package.inv_mass_jacobian * found[1].swapaxes(0, 1)[None]).sum((1, 2, 3))

    rows, start = _Rows(motors, ground, on_package), _VelocityState(qvel, carried, old.motor, found[0], found[1], found[2])
    swept = _iterate(rows, None, start, solver.velocity_iterations)
    swept = apply_where(
        _meet(contacts),
        lambda given, _: _iterate_with_neighbours(*given, sweeps=solver.velocity_iterations),
        (rows, articulation, contacts.neighbours, start),
        swept,
        MEET_AT_A_TIME,
    )
    codes = points.feature_id, contacts.package.feature_id, contacts.neighbours[0].feature_id
    impulses = Impulses(swept.motor, swept.ground, swept.package, swept.neighbours, *codes)
    return separately(to_bodies, articulation, swept.qvel), swept.carried, impulses, motors


def _iterate_with_neighbours(
    rows: _Rows,
    articulation: Articulation,
    neighbours: tuple[ContactPoints, ContactPoints],
    start: _VelocityState,
    sweeps: int,
) -> _VelocityState:
    """As `_iterate`, with contacts of neighbours."""
    left, right = (separately(make_contact_rows, _part(articulation, side), neighbours[side]) for side in (0, 1))
    inv_effective_mass = 2 * (left.inv_effective_mass + right.inv_effective_mass)
    pairs = _Pairs(pad_rows(left, 0, 1), pad_rows(right, 1, 0), inv_effective_mass)
    qvel = warm_start(pairs.left, start.qvel, jnp.pad(start.neighbours, ((0, 0), (0, 0), (0, 1), (0, 0))))
    qvel = warm_start(pairs.right, qvel, jnp.pad(start.neighbours, ((0, 0), (0, 0), (1, 0), (0, 0))))
    return _iterate(rows, pairs, start._replace(qvel=qvel), sweeps)


def _iterate(rows: _Rows, pairs: _Pairs | None, start: _VelocityState, sweeps: int) -> _VelocityState:
    """Velocity sweeps over all motors and contacts. Contacts of neighbours are included if `pairs` is not None."""

    def again(_: jax.Array, carry: tuple) -> tuple:
        qvel, carried, motor, on_ground, of_package, of_pairs = carry
        qvel, motor = solve_motors(rows.motors, qvel, motor)
        qvel, carried, of_package = separately(solve_package_contacts, rows.package, qvel, carried, of_package)
        if pairs is not None:
            qvel, of_pairs = solve_neighbour_contacts(*pairs, qvel, of_pairs)
        qvel, on_ground = solve_ground_contacts(rows.ground, qvel, on_ground)
        return qvel, carried, motor, on_ground, of_package, of_pairs

    qvel, *others = jax.lax.fori_loop(0, sweeps, again, (start.qvel, *(list(each) for each in start[1:])))
    carried, motor, on_ground, of_package, of_pairs = (jnp.stack(each) for each in others)
    return _VelocityState(qvel, carried, motor, on_ground, of_package, of_pairs)


def _part(articulation: Articulation, side: int) -> Articulation:
    """Articulations of the left (0) or the right (1) walkers of all pairs of neighbours."""
    return jax.tree.map(lambda leaf: leaf[1:] if side else leaf[:-1], articulation)


class _PositionProblem(NamedTuple):
    """Constants of the position sweeps: poses at the beginning of the step, contacts, and limits."""

    pose: jax.Array
    package_pose: jax.Array
    contacts: Contacts
    ground: ContactPoints
    limits: Limits


class _PositionState(NamedTuple):
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
    contacts: Contacts,
    ground: ContactPoints,
    limits: Limits,
    present: jax.Array,
    package: model.Package,
    solver: Solver,
) -> tuple[jax.Array, jax.Array]:
    """Poses of walkers and package after position correction of joints and contacts."""
    fixed, make_contact_constraint = _PositionProblem(world.pose, world.package_pose, contacts, ground, limits), _meet(contacts)
    start = _PositionState(
        pose, package_pose, present, jnp.zeros(present.shape), jnp.zeros(make_contact_constraint.shape, jnp.int32)
    )
    places = _correct_positions(fixed, start, solver, package, pairs=False)
    again = jax.tree.map(functools.partial(jnp.where, make_contact_constraint), start, places)
    correct_positions = functools.partial(_correct_positions, solver=solver, package=package, pairs=True)
    places = apply_where(make_contact_constraint | places.active.any(0), correct_positions, fixed, again, AGAIN_AT_A_TIME)
    return places.pose, places.package_pose


def _correct_positions(
    fixed: _PositionProblem, places: _PositionState, solver: Solver, package: model.Package, pairs: bool
) -> _PositionState:
    """Runs position sweeps while any walker is active. With `pairs`, contacts of neighbours are corrected, too.

    After `position_iterations`, only worlds in which joints are still far apart continue.
    """
    contacts, carrying = fixed.contacts, (fixed.contacts.package.feature_id > 0).any(0)

    def sweep(places: _PositionState) -> _PositionState:
        active, moved = places.active, places.pose - fixed.pose
        change, deepest = separately(correct_ground_contacts, fixed.ground, moved)
        from_package, its_change, on_package = correct_package_contacts(
            contacts.package, contacts.package_arm, package, moved, places.package_pose - fixed.package_pose
        )
        change, deepest = change + from_package, jnp.minimum(deepest, on_package)
        if pairs:
            from_pairs, of_pairs = correct_neighbour_contacts(*contacts.neighbours, moved)
            change, deepest = change + from_pairs, jnp.minimum(deepest, of_pairs)
        pushed = places.pose + change
        parts = [Part(*pushed[:, b]) for b in range(NUM_BODIES)]
        parts, good, gap = separately(correct_joints, parts, fixed.limits, active)
        good &= deepest >= MIN_SEPARATION
        wrong_together = (carrying & ~good & active).any(0)
        carried, count = (carrying & active).any(0), places.count + 1
        active &= (~good | (carrying & wrong_together)) & (count < solver.max_position_iterations)
        far = (active & (gap > FAR_APART)).any(0)
        return _PositionState(
            pose=jnp.where(places.active, jnp.stack([jnp.stack(part) for part in parts], 1), places.pose),
            package_pose=jnp.where(carried, places.package_pose + its_change, places.package_pose),
            active=active & ((count != solver.position_iterations) | far),
            gap=gap,
            count=count,
        )

    sweeps = solver.max_position_iterations if pairs else solver.position_iterations
    return while_any(sweeps, lambda places: places.active, sweep, places)
