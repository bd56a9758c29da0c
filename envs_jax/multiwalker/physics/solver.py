"""Solver in generalized velocities, which satisfy the joints exactly. Few iterations over motors and contacts converge.

A step first solves velocities: it starts from the impulses of the last step and iterates over motors and limits, contacts with
the package, contacts of neighbours and contacts with the ground. Then it moves the bodies, and corrects overlaps and gaps of
joints. Arrays have these axes: components of a vector or a pose, bodies or contact points, the n walkers, and the batch E last.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import NUM_JOINTS
from envs_jax.multiwalker.physics import contact_solver
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
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts, ground_contact_points, onto_left, onto_right
from envs_jax.multiwalker.physics.contact_solver import MIN_SEPARATION, ContactRows, NeighbourRows, PackageRows
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any
from envs_jax.multiwalker.physics.world import (
    Control,
    Impulses,
    ImpulseShapes,
    Solver,
    World,
    integrate_positions,
    integrate_velocities,
)

FAR_APART = 0.02
VELOCITIES_AT_A_TIME, POSITIONS_AT_A_TIME = 1 / 32, 1 / 16  # of a batch, where neighbours touch or joints are far apart


def impulse_shapes(num_walkers: int, solver: Solver) -> ImpulseShapes:
    """Shapes of the impulses of motors and limits, and of contact points with the ground, the package and neighbours."""
    return (NUM_JOINTS, num_walkers), [(solver.ground_points, num_walkers), (2, num_walkers), (2, num_walkers - 1)]


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, before continuous collision detection."""
    ground = ground_contact_points(contacts, solver.ground_points)
    velocity, package_velocity, impulses, limits = _solve_velocities(world, control, contacts, ground, package, solver)
    velocity = jnp.where(control.present, velocity, 0.0)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    on_package = contacts.package, contacts.package_r
    problem = _PositionProblem(world.pose, world.package_pose, ground, *on_package, contacts.neighbours, limits)
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
    """Generalized velocity, velocity of the package, and accumulated impulses as in `Impulses`."""

    qvel: jax.Array
    package_velocity: jax.Array
    motors: jax.Array
    contacts: tuple[jax.Array, ...]


def _solve_velocities(
    world: World, control: Control, contacts: Contacts, ground: ContactPoints, package: model.Package, solver: Solver
) -> tuple[jax.Array, jax.Array, Impulses, Limits]:
    """Velocities of bodies and package at the end of the step, accumulated impulses, and active limits."""
    old, neighbours = world.impulses, contacts.neighbours
    articulation = separately(make_articulation, world.pose[2])
    motors = separately(make_motors, articulation, world.pose[2], control.action)
    rows = separately(contact_solver.make_contact_rows, articulation, ground)
    make = functools.partial(contact_solver.make_package_rows, package=package)
    on_package = separately(make, articulation, contacts.package, contacts.package_r)
    ids = tuple(points.feature_id for points in (ground, contacts.package, neighbours[0]))
    matched = tuple(
        separately(contact_solver.match_warm_start, *each) for each in zip(ids, old.feature_ids, old.contacts, strict=True)
    )

    velocity, package_velocity = integrate_velocities(world, control.push)
    qvel = separately(to_generalized, articulation, velocity)
    qvel = qvel + fold(jnp.add, (motors.inv_mass_jacobian[:, j] * each for j, each in enumerate(old.joints)))
    qvel = contact_solver.warm_start(on_package.walker, contact_solver.warm_start(rows, qvel, matched[0]), matched[1])
    package_velocity += (on_package.inv_mass_jacobian * matched[1].swapaxes(0, 1)[None]).sum((1, 2, 3))

    constraints, start = _Constraints(motors, rows, on_package), _VelocityState(qvel, package_velocity, old.joints, matched)
    end = apply_where(
        _touch(neighbours),
        lambda given, _: _iterate_with_neighbours(*given, iterations=solver.velocity_iterations),
        (constraints, articulation, neighbours, start),
        _iterate(constraints, None, start, solver.velocity_iterations),
        VELOCITIES_AT_A_TIME,
    )
    bodies = separately(to_bodies, articulation, end.qvel)
    return bodies, end.package_velocity, Impulses(end.motors, end.contacts, ids), motors.limits


def _iterate_with_neighbours(
    constraints: _Constraints,
    articulation: Articulation,
    neighbours: tuple[ContactPoints, ContactPoints],
    start: _VelocityState,
    iterations: int,
) -> _VelocityState:
    """As `_iterate`, with contacts of neighbours."""
    rows, (*_, impulse) = contact_solver.make_neighbour_rows(articulation, *neighbours), start.contacts
    qvel = contact_solver.warm_start(rows.left, start.qvel, onto_left(impulse))
    qvel = contact_solver.warm_start(rows.right, qvel, onto_right(impulse))
    return _iterate(constraints, rows, start._replace(qvel=qvel), iterations)


def _iterate(
    constraints: _Constraints, neighbours: NeighbourRows | None, start: _VelocityState, iterations: int
) -> _VelocityState:
    """Iterations over all motors and contacts. Contacts of neighbours are included if `neighbours` is not None."""

    def iteration(_: jax.Array, state: tuple) -> tuple:
        qvel, package_velocity, motors, (ground, package, beside) = state
        qvel, motors = solve_motors(constraints.motors, qvel, motors)
        qvel, package_velocity, package = separately(
            contact_solver.solve_package_contacts, constraints.package, qvel, package_velocity, package
        )
        if neighbours is not None:
            qvel, beside = contact_solver.solve_neighbour_contacts(neighbours, qvel, beside)
        qvel, ground = contact_solver.solve_ground_contacts(constraints.ground, qvel, ground)
        return qvel, package_velocity, motors, (ground, package, beside)

    # Lists spare an update of the whole array for each entry.
    listed = start.qvel, [*start.package_velocity], [*start.motors], tuple([*each] for each in start.contacts)
    qvel, package_velocity, motors, contacts = jax.lax.fori_loop(0, iterations, iteration, listed)
    return _VelocityState(qvel, jnp.stack(package_velocity), jnp.stack(motors), tuple(map(jnp.stack, contacts)))


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
    """Variables of position correction."""

    pose: jax.Array  # (3, 5, n, E)
    package_pose: jax.Array  # (3, E)
    active: jax.Array  # (n, E) bool, walkers that need further iterations
    gap: jax.Array  # (n, E), largest gap between anchors of a joint
    count: jax.Array  # (E,) int32, number of iterations so far


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
    correct_package = functools.partial(contact_solver.correct_package_contacts, package=package)

    def iteration(state: _PositionState) -> _PositionState:
        active, moved = state.active, state.pose - problem.pose
        change, deepest = separately(contact_solver.correct_ground_contacts, problem.ground, moved)
        package_moved = state.package_pose - problem.package_pose
        from_package, package_change, on_package = separately(
            correct_package, problem.package, problem.package_r, moved, package_moved
        )
        change, deepest = change + from_package, jnp.minimum(deepest, on_package)
        if neighbours:
            from_neighbours, of_neighbours = contact_solver.correct_neighbour_contacts(*problem.neighbours, moved)
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
