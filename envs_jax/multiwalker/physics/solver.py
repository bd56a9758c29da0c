"""Solver in generalized velocities, which satisfy the joints exactly. Few iterations over motors and contacts converge.

A step first solves velocities: it starts from the impulses of the last step and iterates over motors and limits, contacts with
the package, contacts of neighbours and contacts with the ground. Then it moves the bodies, and corrects overlaps and gaps of
joints. Arrays have these axes: components of a vector or a pose, bodies or contact points, the n walkers, and the batch E last.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import NUM_JOINTS
from envs_jax.multiwalker.physics.articulation import (
    Articulation,
    Limits,
    Motors,
    correct_joints,
    make_articulation,
    make_motors,
    solve_motors,
    stack_poses,
    to_bodies,
    to_generalized,
)
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts, ground_contact_points
from envs_jax.multiwalker.physics.contact_solver import (
    MIN_SEPARATION,
    ContactRows,
    NeighbourRows,
    PackageRows,
    correct_ground_contacts,
    correct_neighbour_contacts,
    correct_package_contacts,
    make_contact_rows,
    make_neighbour_rows,
    make_package_rows,
    match_warm_start,
    solve_ground_contacts,
    solve_neighbour_contacts,
    solve_package_contacts,
    warm_start,
)
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any
from envs_jax.multiwalker.physics.world import Control, Solver, World, integrate_positions, integrate_velocities

FAR_APART = 0.02
VELOCITIES_AT_A_TIME, POSITIONS_AT_A_TIME = 1 / 32, 1 / 16  # of a batch, where neighbours touch or joints are far apart


@flax.struct.dataclass
class Impulses:
    """Accumulated impulses of a step and feature ids of its contacts, for the warm start of the next one.

    Attributes:
        motor: (4, n, E), of motors and limits.
        ground: (K, 2, n, E), along the tangent and along the normal.
        package: (2 points, 2, n, E).
        neighbours: (2 points, 2, n - 1, E).
        ground_ids: (K, n, E).
        package_ids: (2, n, E).
        neighbour_ids: (2, n - 1, E).
    """

    motor: jax.Array
    ground: jax.Array
    package: jax.Array
    neighbours: jax.Array
    ground_ids: jax.Array
    package_ids: jax.Array
    neighbour_ids: jax.Array


def no_impulses(num_walkers: int, ground_points: int, batch: int) -> Impulses:
    """Impulses at the start of an episode, which are zeros."""
    n = num_walkers
    shapes = [(NUM_JOINTS, n), (ground_points, 2, n), (2, 2, n), (2, 2, n - 1), (ground_points, n), (2, n), (2, n - 1)]
    return Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, before continuous collision detection."""
    ground = ground_contact_points(contacts, solver.ground_points)
    velocity, package_velocity, impulses, motors = _solve_velocities(world, control, contacts, ground, package, solver)
    velocity = jnp.where(control.present, velocity, 0.0)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    on_package = contacts.package, contacts.package_r
    problem = _PositionProblem(world.pose, world.package_pose, ground, *on_package, contacts.neighbours, motors.limits)
    pose, package_pose = _solve_positions(problem, *moved, control.present, package, solver)
    return World(pose, velocity, package_pose, package_velocity, impulses)


def _touch(neighbours: tuple[ContactPoints, ContactPoints]) -> jax.Array:
    """Whether any neighbours touch, (E,) bool. This is rare, and only these columns are solved with contacts of neighbours."""
    return neighbours[0].used.any((0, 1))


class _Constraints(NamedTuple):
    motors: Motors
    ground: ContactRows
    package: PackageRows


class _VelocityState(NamedTuple):
    """Generalized velocity, velocity of the package, and accumulated impulses."""

    qvel: jax.Array
    package_velocity: jax.Array
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
    make = functools.partial(make_package_rows, package=package)
    on_package = separately(make, articulation, contacts.package, contacts.package_r)
    velocity, package_velocity = integrate_velocities(world, control.push)
    qvel, old, neighbours = separately(to_generalized, articulation, velocity), world.impulses, contacts.neighbours
    of_ground = separately(match_warm_start, points.feature_id, old.ground_ids, old.ground)
    of_package = separately(match_warm_start, contacts.package.feature_id, old.package_ids, old.package)
    of_neighbours = separately(match_warm_start, neighbours[0].feature_id, old.neighbour_ids, old.neighbours)
    qvel = qvel + fold(jnp.add, (motors.inv_mass_jacobian[:, j] * each for j, each in enumerate(old.motor)))
    qvel = warm_start(on_package.walker, warm_start(ground, qvel, of_ground), of_package)
    package_velocity += (on_package.inv_mass_jacobian * of_package.swapaxes(0, 1)[None]).sum((1, 2, 3))

    constraints = _Constraints(motors, ground, on_package)
    start = _VelocityState(qvel, package_velocity, old.motor, of_ground, of_package, of_neighbours)
    state = apply_where(
        _touch(neighbours),
        lambda given, _: _iterate_with_neighbours(*given, iterations=solver.velocity_iterations),
        (constraints, articulation, neighbours, start),
        _iterate(constraints, None, start, solver.velocity_iterations),
        VELOCITIES_AT_A_TIME,
    )
    motor, of_ground, of_package, of_neighbours = state[2:]
    impulses = Impulses(
        motor, of_ground, of_package, of_neighbours, points.feature_id, contacts.package.feature_id, neighbours[0].feature_id
    )
    return separately(to_bodies, articulation, state.qvel), state.package_velocity, impulses, motors


def _iterate_with_neighbours(
    constraints: _Constraints,
    articulation: Articulation,
    neighbours: tuple[ContactPoints, ContactPoints],
    start: _VelocityState,
    iterations: int,
) -> _VelocityState:
    """As `_iterate`, with contacts of neighbours."""
    rows, rest = make_neighbour_rows(articulation, *neighbours), ((0, 0), (0, 0))
    qvel = warm_start(rows.left, start.qvel, jnp.pad(start.neighbours, (*rest, (0, 1), (0, 0))))
    qvel = warm_start(rows.right, qvel, jnp.pad(start.neighbours, (*rest, (1, 0), (0, 0))))
    return _iterate(constraints, rows, start._replace(qvel=qvel), iterations)


def _iterate(
    constraints: _Constraints, neighbours: NeighbourRows | None, start: _VelocityState, iterations: int
) -> _VelocityState:
    """Iterations over all motors and contacts. Contacts of neighbours are included if `neighbours` is not None."""

    def iteration(_: jax.Array, state: tuple) -> tuple:
        qvel, package_velocity, motor, on_ground, on_package, of_neighbours = state
        qvel, motor = solve_motors(constraints.motors, qvel, motor)
        qvel, package_velocity, on_package = separately(
            solve_package_contacts, constraints.package, qvel, package_velocity, on_package
        )
        if neighbours is not None:
            qvel, of_neighbours = solve_neighbour_contacts(neighbours, qvel, of_neighbours)
        qvel, on_ground = solve_ground_contacts(constraints.ground, qvel, on_ground)
        return qvel, package_velocity, motor, on_ground, on_package, of_neighbours

    # Lists spare an update of the whole array for each entry.
    qvel, *others = jax.lax.fori_loop(0, iterations, iteration, (start.qvel, *(list(each) for each in start[1:])))
    package_velocity, motor, of_ground, of_package, of_neighbours = (jnp.stack(each) for each in others)
    return _VelocityState(qvel, package_velocity, motor, of_ground, of_package, of_neighbours)


class _PositionProblem(NamedTuple):
    """Poses at the beginning of the step, contacts, and limits."""

    pose: jax.Array
    package_pose: jax.Array
    ground: ContactPoints
    package: ContactPoints
    package_r: jax.Array
    neighbours: tuple[ContactPoints, ContactPoints]
    limits: Limits


class _PositionState(NamedTuple):
    """Variables of position correction.

    Attributes:
        pose: (3, 5, n, E).
        package_pose: (3, E).
        active: (n, E) bool, walkers that need further iterations.
        gap: (n, E), largest gap between anchors of a joint.
        count: (E,) int32, number of iterations so far.
    """

    pose: jax.Array
    package_pose: jax.Array
    active: jax.Array
    gap: jax.Array
    count: jax.Array


def _solve_positions(
    problem: _PositionProblem,
    pose: jax.Array,
    package_pose: jax.Array,
    present: jax.Array,
    package: model.Package,
    solver: Solver,
) -> tuple[jax.Array, jax.Array]:
    """Poses of walkers and package after position correction of joints and contacts."""
    touch = _touch(problem.neighbours)
    start = _PositionState(pose, package_pose, present, jnp.zeros(present.shape), jnp.zeros(touch.shape, jnp.int32))
    state = _correct_positions(problem, start, solver, package, neighbours=False)
    state = jax.tree.map(functools.partial(jnp.where, touch), start, state)
    correct = functools.partial(_correct_positions, solver=solver, package=package, neighbours=True)
    state = apply_where(touch | state.active.any(0), correct, problem, state, POSITIONS_AT_A_TIME)
    return state.pose, state.package_pose


def _correct_positions(
    problem: _PositionProblem, state: _PositionState, solver: Solver, package: model.Package, neighbours: bool
) -> _PositionState:
    """Iterates while any walker is active. With `neighbours`, contacts of neighbours are corrected, too.

    After `position_iterations`, only worlds in which joints are still far apart continue.
    """
    carrying = problem.package.used.any(0)

    def iteration(state: _PositionState) -> _PositionState:
        active, moved = state.active, state.pose - problem.pose
        change, deepest = separately(correct_ground_contacts, problem.ground, moved)
        package_moved = state.package_pose - problem.package_pose
        from_package, package_change, on_package = correct_package_contacts(
            problem.package, problem.package_r, package, moved, package_moved
        )
        change, deepest = change + from_package, jnp.minimum(deepest, on_package)
        if neighbours:
            from_neighbours, of_neighbours = correct_neighbour_contacts(*problem.neighbours, moved)
            change, deepest = change + from_neighbours, jnp.minimum(deepest, of_neighbours)
        parts, good, gap = separately(correct_joints, state.pose + change, problem.limits, active)
        good &= deepest >= MIN_SEPARATION
        carried, count = (carrying & active).any(0), state.count + 1
        wrong_together = (carrying & ~good & active).any(0)
        active &= (~good | (carrying & wrong_together)) & (count < solver.max_position_iterations)
        far = (active & (gap > FAR_APART)).any(0)
        return _PositionState(
            pose=jnp.where(state.active, stack_poses(parts), state.pose),
            package_pose=jnp.where(carried, state.package_pose + package_change, state.package_pose),
            active=active & ((count != solver.position_iterations) | far),
            gap=gap,
            count=count,
        )

    iterations = solver.max_position_iterations if neighbours else solver.position_iterations
    return while_any(iterations, lambda state: state.active, iteration, state)
