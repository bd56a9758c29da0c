"""Solver that applies impulses at joints and contacts one after another, in Box2D's order (b2Island::Solve).

Box2D's 180 velocity iterations do not always converge, and bodies move with the velocities that result. This solver reproduces
those velocities. `physics.solver` finds the converged ones instead. Axes are as there.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold
from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d.ground_contacts import FEET, OTHERS, ground_manifolds, num_edges
from envs_jax.multiwalker.box2d.position_solver import PositionProblem, correct_positions
from envs_jax.multiwalker.box2d.revolute_joint import JointImpulse, RevoluteJoint, apply_joint_impulse, make_joints, solve_joint
from envs_jax.multiwalker.model import INERTIA, MASS, NUM_BODIES, NUM_JOINTS, single
from envs_jax.multiwalker.physics.articulation import CHILD, ORDER, PARENT, joint_limits
from envs_jax.multiwalker.physics.contact_constraint import (
    Body,
    ContactConstraint,
    ContactImpulse,
    make_contact_constraint,
    solve_contact,
    warm_start_contact,
)
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts
from envs_jax.multiwalker.physics.contact_solver import match_warm_start
from envs_jax.multiwalker.physics.geometry import Motion, joined, motion
from envs_jax.multiwalker.physics.manifold import Manifold
from envs_jax.multiwalker.physics.world import Control, Solver, World, integrate_positions, integrate_velocities


@flax.struct.dataclass
class Impulses:
    """Accumulated impulses of a step and feature ids of its contacts, for the warm start of the next one.

    Attributes:
        motor: (4, n, E).
        point: (2, 4, n, E), point constraints of the joints.
        limit: (4, n, E).
        feet: (8 points, 2 rows, 2, n, E), lower legs on the ground, along the tangent and along the normal.
        others: (4 points, 2 rows, 3, n, E), hull and upper legs on the ground.
        package: (2 points, 2 rows, n, E).
        neighbours: (2 points, 2 rows, n - 1, E).
        feet_ids: (8, 2, n, E).
        others_ids: (4, 3, n, E).
        package_ids: (2, n, E).
        neighbour_ids: (2, n - 1, E).
    """

    motor: jax.Array
    point: jax.Array
    limit: jax.Array
    feet: jax.Array
    others: jax.Array
    package: jax.Array
    neighbours: jax.Array
    feet_ids: jax.Array
    others_ids: jax.Array
    package_ids: jax.Array
    neighbour_ids: jax.Array


def no_impulses(num_walkers: int, batch: int) -> Impulses:
    """Impulses at the start of an episode, which are zeros."""
    n, joints = num_walkers, NUM_JOINTS
    points = [(2 * num_edges(group), len(group), n) for group in (FEET, OTHERS)] + [(2, n), (2, n - 1)]
    shapes = [(joints, n), (2, joints, n), (joints, n), *((shape[0], 2, *shape[1:]) for shape in points), *points]
    return Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))


class WalkerBody(NamedTuple):
    """One body of a walker in each environment: `one_hot` is its one-hot index, (5, E) float."""

    walker: int
    one_hot: jax.Array


Bodies = list[Motion]
"""Velocities of the five bodies of all walkers (n, E)."""


def _velocity(bodies: Bodies, body: WalkerBody) -> Motion:
    """Velocity of a body of one walker (E,)."""

    def pick(*leaves: jax.Array) -> jax.Array:
        return fold(jnp.add, (one_hot * leaf[..., body.walker, :] for one_hot, leaf in zip(body.one_hot, leaves, strict=True)))

    return jax.tree.map(pick, *bodies)


def _add(bodies: Bodies, body: WalkerBody, change: Motion) -> Bodies:
    """Velocities of all bodies after that of one walker's body has changed."""
    return [
        jax.tree.map(lambda leaf, new, one_hot=one_hot: leaf.at[..., body.walker, :].add(one_hot * new), velocity, change)
        for one_hot, velocity in zip(body.one_hot, bodies, strict=True)
    ]


def _change(after: Motion, before: Motion) -> Motion:
    return jax.tree.map(jnp.subtract, after, before)


def _stack(bodies: Bodies, group: tuple[int, ...]) -> Motion:
    """Velocities of the bodies of a group (B, n, E)."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, -3), *(bodies[b] for b in group))


def _at(values: Motion, i: int) -> Motion:
    """Velocity of body i of a group."""
    return jax.tree.map(lambda leaf: leaf[..., i, :, :], values)


class PairContact(NamedTuple):
    """Contact of a walker's body with the package (`first` is None), or with a body of the walker to its left."""

    first: WalkerBody | None
    second: WalkerBody
    constraint: ContactConstraint


class _Problem(NamedTuple):
    """Constraints of the velocity iterations. `ground` has the edges under the bodies of `FEET` and of `OTHERS`."""

    joints: list[RevoluteJoint]
    ground: list[list[ContactConstraint]]
    package: list[PairContact]
    neighbours: list[PairContact]
    entered: jax.Array


class _State(NamedTuple):
    """Velocities and accumulated impulses, in the order of `_Problem`."""

    bodies: Bodies
    package_velocity: Motion
    joints: list[JointImpulse]
    ground: list[list[ContactImpulse]]
    package: list[ContactImpulse]
    neighbours: list[ContactImpulse]


def entered_by_hull(contacts: Contacts) -> jax.Array:
    """Walkers (n, E) that Box2D reaches by the package, after a later walker. It visits their first knee last."""
    carries = contacts.package.used.any(0)
    later = jnp.flip(jnp.cumsum(jnp.flip(carries, 0).astype(jnp.int32), 0), 0) - carries
    return carries & (later > 0)


def _ground_constraints(manifold: Manifold, group: tuple[int, ...]) -> list[ContactConstraint]:
    """Constraints of the bodies of a group with each of the edges under them."""
    bodies, made = np.array(group), []
    inv_mass, inv_inertia = (jnp.asarray(single(1 / of)[bodies, None, None]) for of in (MASS, INERTIA))
    friction = jnp.asarray(single(np.sqrt(model.FRICTION * model.TERRAIN_FRICTION))[bodies, None, None])
    for k in range(num_edges(group)):
        body = Body(manifold.point[:, :, k], inv_mass, inv_inertia)
        made.append(make_contact_constraint(manifold.normal[:, k], manifold.touching[:, k], (body,), friction))
    return made


def _one(points: ContactPoints, values: jax.Array) -> jax.Array:
    """Values (..., 2, n, E) that both points of a contact share, read from a point in use."""
    return jnp.where(points.used[0], values[..., 0, :, :], values[..., 1, :, :])


def _body(points: ContactPoints, w: int) -> Body:
    return Body(points.r[:, :, w], _one(points, points.inv_mass)[w], _one(points, points.inv_inertia)[w])


def _constraint(points: ContactPoints, w: int, first: Body) -> ContactConstraint:
    """Constraints of walker `w` of contacts (2, n, E) with another body."""
    normal, friction = _one(points, points.normal)[:, w], _one(points, points.friction)[w]
    bodies = first._replace(sign=-1.0), _body(points, w)
    return make_contact_constraint(normal, points.used[:, w], bodies, friction)


def _make_problem(
    world: World, control: Control, contacts: Contacts, manifolds: list[Manifold], package: model.Package
) -> _Problem:
    (left, right), points = contacts.neighbours, contacts.package
    of_left, of_right, of_package = (_one(each, each.one_hot) for each in (left, right, points))
    on_package, neighbours = [], []
    for w in range(control.present.shape[0]):
        its = Body(contacts.package_r[:, :, w], jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia))
        on_package.append(PairContact(None, WalkerBody(w, of_package[:, w]), _constraint(points, w, its)))
    for w in range(right.used.shape[1]):
        bodies = WalkerBody(w, of_left[:, w]), WalkerBody(w + 1, of_right[:, w])
        neighbours.append(PairContact(*bodies, _constraint(right, w, _body(left, w))))
    ground = [_ground_constraints(each, group) for each, group in zip(manifolds, (FEET, OTHERS), strict=True)]
    joints = make_joints(world.pose[2], control.action)
    return _Problem(joints, ground, on_package, neighbours, entered_by_hull(contacts))


def _solve_joints(problem: _Problem, state: _State) -> _State:
    """One iteration over the joints in Box2D's order, which depends on the body at which it reaches the walker."""
    bodies, impulses, entered = list(state.bodies), list(state.joints), problem.entered
    knee, *others = ORDER
    for j, where in ((knee, ~entered), *((j, None) for j in others), (knee, entered)):
        a, b = PARENT[j], CHILD[j]
        before = bodies[a], bodies[b], impulses[j]
        after = solve_joint(problem.joints[j], j, *before)
        if where is not None:
            after = jax.tree.map(lambda new, old, where=where: jnp.where(where, new, old), after, before)
        bodies[a], bodies[b], impulses[j] = after
    return state._replace(bodies=bodies, joints=impulses)


def _solve_walkers(problem: _Problem, state: _State) -> _State:
    """One iteration over contacts of neighbours, then over contacts with the package, from the last walker to the first."""
    bodies, its, on_package, neighbours = state.bodies, state.package_velocity, list(state.package), list(state.neighbours)
    for w, (one, other, constraint) in reversed(list(enumerate(problem.neighbours))):
        assert one is not None
        left, right = _velocity(bodies, one), _velocity(bodies, other)
        (new_left, new_right), neighbours[w] = solve_contact(constraint, (left, right), neighbours[w])
        bodies = _add(_add(bodies, one, _change(new_left, left)), other, _change(new_right, right))
    for w, (_, body, constraint) in reversed(list(enumerate(problem.package))):
        before = _velocity(bodies, body)
        (its, after), on_package[w] = solve_contact(constraint, (its, before), on_package[w])
        bodies = _add(bodies, body, _change(after, before))
    return state._replace(bodies=bodies, package_velocity=its, package=on_package, neighbours=neighbours)


def _solve_ground(problem: _Problem, state: _State) -> _State:
    """One iteration over contacts with the ground, from right to left."""
    bodies, ground = list(state.bodies), []
    for group, constraints, impulses in zip((FEET, OTHERS), problem.ground, state.ground, strict=True):
        velocity, impulses = _stack(bodies, group), list(impulses)
        for k in reversed(range(len(impulses))):
            (velocity,), impulses[k] = solve_contact(constraints[k], (velocity,), impulses[k])
        for i, b in enumerate(group):
            bodies[b] = _at(velocity, i)
        ground.append(impulses)
    return state._replace(bodies=bodies, ground=ground)


def _matched(constraint: ContactConstraint, impulse: jax.Array) -> ContactImpulse:
    """Impulses (2 points, 2 rows, ...) of the last step, at points that are still in use."""
    (a, b), used = impulse, constraint.block.used
    rows = ((jnp.where(used[0], a[row], 0.0), jnp.where(used[1], b[row], 0.0)) for row in (0, 1))
    return ContactImpulse(*rows)


def _start(problem: _Problem, world: World, control: Control, contacts: Contacts, manifolds: list[Manifold]) -> _State:
    """Velocities before the constraint impulses of this step, and the accumulated impulses of the last step."""
    old, limits, ground = world.impulses, joint_limits(world.pose[2]), []
    kept = (old.feet, old.feet_ids), (old.others, old.others_ids)
    for constraints, manifold, (impulse, ids) in zip(problem.ground, manifolds, kept, strict=True):
        found = match_warm_start(_flat(manifold.feature), ids, impulse).reshape(2, len(constraints), *impulse.shape[1:])
        ground.append([_matched(constraint, found[:, k]) for k, constraint in enumerate(constraints)])
    on_package = match_warm_start(contacts.package.feature_id, old.package_ids, old.package)
    neighbours = match_warm_start(contacts.neighbours[1].feature_id, old.neighbour_ids, old.neighbours)
    limit = jnp.where(limits.at_lower, old.limit.clip(0), jnp.where(limits.at_upper, old.limit.clip(None, 0), 0.0))
    velocity, package_velocity = integrate_velocities(world, control.push)
    return _State(
        bodies=[motion(velocity[:, b]) for b in range(NUM_BODIES)],
        package_velocity=motion(package_velocity),
        joints=[JointImpulse(old.motor[j], old.point[:, j], limit[j]) for j in range(NUM_JOINTS)],
        ground=ground,
        package=[_matched(each.constraint, on_package[:, :, w]) for w, each in enumerate(problem.package)],
        neighbours=[_matched(each.constraint, neighbours[:, :, w]) for w, each in enumerate(problem.neighbours)],
    )


def _warm_start(problem: _Problem, state: _State) -> _State:
    """Applies the accumulated impulses of the last step to the velocities."""
    bodies, its = list(state.bodies), state.package_velocity
    for j, impulse in enumerate(state.joints):
        a, b, turn = PARENT[j], CHILD[j], impulse.motor + impulse.limit
        bodies[a], bodies[b] = apply_joint_impulse(problem.joints[j], j, bodies[a], bodies[b], impulse.point, turn)
    for group, constraints, impulses in zip((FEET, OTHERS), problem.ground, state.ground, strict=True):
        for constraint, impulse in zip(constraints, impulses, strict=True):
            (velocity,) = warm_start_contact(constraint, impulse, (_stack(bodies, group),))
            for i, b in enumerate(group):
                bodies[b] = _at(velocity, i)
    still = jax.tree.map(jnp.zeros_like, its)
    for (_, body, constraint), impulse in zip(problem.package, state.package, strict=True):
        its, change = warm_start_contact(constraint, impulse, (its, still))
        bodies = _add(bodies, body, change)
    for (one, other, constraint), impulse in zip(problem.neighbours, state.neighbours, strict=True):
        assert one is not None
        left, right = warm_start_contact(constraint, impulse, (still, still))
        bodies = _add(_add(bodies, one, left), other, right)
    return state._replace(bodies=bodies, package_velocity=its)


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, before continuous collision detection."""
    manifolds = ground_manifolds(contacts)
    problem = _make_problem(world, control, contacts, manifolds, package)

    def iteration(_: jax.Array, state: _State) -> _State:
        return _solve_ground(problem, _solve_walkers(problem, _solve_joints(problem, state)))

    state = _warm_start(problem, _start(problem, world, control, contacts, manifolds))
    state = jax.lax.fori_loop(0, solver.velocity_iterations, iteration, state)
    velocity = jnp.where(control.present, jnp.stack([joined(body) for body in state.bodies], 1), 0.0)
    package_velocity = joined(state.package_velocity)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    limits = joint_limits(world.pose[2])
    poses = world.pose, world.package_pose
    positions = PositionProblem(*poses, contacts, manifolds, limits, problem.entered, control.present)
    pose, package_pose = correct_positions(positions, *moved, package, solver.position_iterations)
    return World(pose, velocity, package_pose, package_velocity, _kept(state, contacts, manifolds))


def _flat(values: jax.Array) -> jax.Array:
    """Reshapes (2 points, K, ...) to (2 K, ...)."""
    return values.reshape(-1, *values.shape[2:])


def _stacked(impulses: list[ContactImpulse]) -> jax.Array:
    """Stacks the impulses of K manifolds, (2 points, 2 rows, K, ...)."""
    rows = [[jnp.stack([each[row][p] for each in impulses]) for row in (0, 1)] for p in (0, 1)]
    return jnp.stack([jnp.stack(each) for each in rows])


def _kept(state: _State, contacts: Contacts, manifolds: list[Manifold]) -> Impulses:
    """Accumulated impulses for the next step."""
    feet, others = (_flat(_stacked(impulses).swapaxes(1, 2)) for impulses in state.ground)
    no_pairs = jnp.zeros((2, 2, *contacts.neighbours[1].used.shape[1:]))
    return Impulses(
        motor=jnp.stack([each.motor for each in state.joints]),
        point=jnp.stack([each.point for each in state.joints], 1),
        limit=jnp.stack([each.limit for each in state.joints]),
        feet=feet,
        others=others,
        package=_stacked(state.package),
        neighbours=_stacked(state.neighbours) if state.neighbours else no_pairs,
        feet_ids=_flat(manifolds[0].feature),
        others_ids=_flat(manifolds[1].feature),
        package_ids=contacts.package.feature_id,
        neighbour_ids=contacts.neighbours[1].feature_id,
    )
