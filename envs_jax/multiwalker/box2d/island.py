"""Solver that applies impulses at joints and contacts one after another, in Box2D's order (b2RevoluteJoint, b2ContactSolver).

Box2D's 180 velocity sweeps do not always converge, and bodies move with the velocities that result. This solver reproduces
those velocities. `physics.solver` finds the converged ones instead. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d.ground_contacts import FEET, OTHERS, Edges, edges_under, num_edges
from envs_jax.multiwalker.box2d.position_solver import Start, correct_positions
from envs_jax.multiwalker.box2d.revolute_joint import JointImpulse, RevoluteJoint, apply_joint_impulse, make_joints, solve_joint
from envs_jax.multiwalker.model import INERTIA, MASS, NUM_BODIES, NUM_JOINTS, single
from envs_jax.multiwalker.physics.articulation import CHILD, ORDER, PARENT, joint_limits
from envs_jax.multiwalker.physics.contact_constraint import (
    ContactConstraint,
    ContactImpulse,
    make_contact_constraint,
    solve_contact,
    warm_start_contact,
)
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts
from envs_jax.multiwalker.physics.contact_solver import match_warm_start
from envs_jax.multiwalker.physics.manifold import Vector
from envs_jax.multiwalker.physics.world import Control, Solver, Velocity, World, integrate_positions, integrate_velocities


@flax.struct.dataclass
class Impulses:
    """Accumulated impulses of a step, for the warm start of the next one. Codes are feature ids of contacts.

    Attributes:
        motor: (4, n, E).
        hold: (2, 4, n, E), point constraints of the joints.
        limit: (4, n, E).
        feet: (8 points, 2 rows, 2, n, E), lower legs on the ground, along the tangent and along the normal.
        others: (4 points, 2 rows, 3, n, E), hull and upper legs on the ground.
        package: (2 points, 2 rows, n, E).
        neighbours: (2 points, 2 rows, n - 1, E).
        feet_code: (8, 2, n, E).
        others_code: (4, 3, n, E).
        package_code: (2, n, E).
        neighbours_code: (2, n - 1, E).
    """

    motor: jax.Array
    hold: jax.Array
    limit: jax.Array
    feet: jax.Array
    others: jax.Array
    package: jax.Array
    neighbours: jax.Array
    feet_code: jax.Array
    others_code: jax.Array
    package_code: jax.Array
    neighbours_code: jax.Array


def no_impulses(num_walkers: int, batch: int) -> Impulses:
    """Impulses at the start of an episode, which are zeros."""
    n, joints = num_walkers, NUM_JOINTS
    points = [(2 * num_edges(group), len(group), n) for group in (FEET, OTHERS)] + [(2, n), (2, n - 1)]
    shapes = [(joints, n), (2, joints, n), (joints, n), *((shape[0], 2, *shape[1:]) for shape in points), *points]
    return Impulses(*(jnp.zeros((*shape, batch), jnp.float32) for shape in shapes))


class WalkerBody(NamedTuple):
    """One body of a walker in each environment: `which` is its one-hot index, (5, E) float."""

    walker: int
    which: jax.Array


Bodies = list[Velocity]
"""Velocities of the five bodies of all walkers, arrays (n, E)."""


def _pick(bodies: Bodies, one_hot: WalkerBody) -> Velocity:
    """Velocity of a body of one walker, (E,)."""
    parts = [[one_hot.which[b] * value[one_hot.walker] for value in velocity] for b, velocity in enumerate(bodies)]
    x, y, spin = (sum((part[i] for part in parts), jnp.zeros(())) for i in range(3))
    return x, y, spin


def _change(bodies: Bodies, one_hot: WalkerBody, before: Velocity, after: Velocity) -> Bodies:
    """Velocities of all bodies after that of one walker's body has changed from `before` to `after`."""
    change = [new - old for new, old in zip(after, before, strict=True)]
    changed = []
    for b, velocity in enumerate(bodies):
        x, y, spin = (
            value.at[one_hot.walker].add(one_hot.which[b] * each) for value, each in zip(velocity, change, strict=True)
        )
        changed.append((x, y, spin))
    return changed


class GroundContact(NamedTuple):
    """Contacts of the bodies of a group with the edges under them."""

    group: tuple[int, ...]
    constraints: list[ContactConstraint]


class PackageContact(NamedTuple):
    """Contact of one walker with the package."""

    one_hot: WalkerBody
    constraint: ContactConstraint


class WalkerContact(NamedTuple):
    """Contact of a walker with the next one."""

    left: WalkerBody
    right: WalkerBody
    constraint: ContactConstraint


class _Problem(NamedTuple):
    """Constraints of the velocity sweeps."""

    joints: list[RevoluteJoint]
    stands: list[GroundContact]
    carries: list[PackageContact]
    bumps: list[WalkerContact]
    entered: jax.Array


class _State(NamedTuple):
    """Variables of the velocity sweeps: velocities and accumulated impulses."""

    bodies: Bodies
    package: Velocity
    held: list[JointImpulse]
    on_ground: list[list[ContactImpulse]]
    on_package: list[ContactImpulse]
    of_pairs: list[ContactImpulse]


def _nothing() -> Velocity:
    """The velocity of the ground."""
    return jnp.zeros(()), jnp.zeros(()), jnp.zeros(())


def entered_by_hull(contacts: Contacts) -> jax.Array:
    """Walkers (n, E) that Box2D reaches by the package, after a later walker. It visits their first knee last."""
    carries = (contacts.package.feature_id > 0).any(0)
    later = jnp.flip(jnp.cumsum(jnp.flip(carries, 0).astype(jnp.int32), 0), 0) - carries
    return carries & (later > 0)


def _stand(edges: Edges, group: tuple[int, ...]) -> GroundContact:
    zero, bodies = jnp.zeros(()), np.array(group)
    inv_mass = single(1 / MASS)[bodies, None, None], single(1 / INERTIA)[bodies, None, None]
    friction = jnp.asarray(single(np.sqrt(model.FRICTION * model.TERRAIN_FRICTION))[bodies, None, None])
    constraints = []
    for k in range(num_edges(group)):
        normal, r = (edges.normal[0][k], edges.normal[1][k]), (edges.r[0][:, k], edges.r[1][:, k])
        constraints.append(
            make_contact_constraint(
                normal, edges.touching[:, k], r, inv_mass, (jnp.zeros(2), jnp.zeros(2)), (zero, zero), friction
            )
        )
    return GroundContact(group, constraints)


def _one(points: ContactPoints, values: jax.Array) -> jax.Array:
    """Values (..., 2, n, E) that both points of a contact share, read from a point in use."""
    return jnp.where(points.feature_id[0] > 0, values[..., 0, :, :], values[..., 1, :, :])


def _meet(points: ContactPoints, w: int, first_r: Vector, first_inv_mass: Vector) -> tuple[WalkerBody, ContactConstraint]:
    """Body of walker `w` and its constraints with another body, from contacts (2, n, E)."""
    normal = _one(points, points.normal[0])[w], _one(points, points.normal[1])[w]
    inv_mass = _one(points, points.inv_mass)[w], _one(points, points.inv_inertia)[w]
    arms = ((r[0][:, w], r[1][:, w]) for r in (points.r, first_r))
    own, its = arms
    constraint = make_contact_constraint(
        normal, points.feature_id[:, w] > 0, own, inv_mass, its, first_inv_mass, _one(points, points.friction)[w]
    )
    return WalkerBody(w, _one(points, points.one_hot)[:, w]), constraint


def _make_problem(world: World, control: Control, contacts: Contacts, edges: list[Edges], package: model.Package) -> _Problem:
    left, right = contacts.neighbours
    first_inv_mass = jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia)
    carries = [
        PackageContact(*_meet(contacts.package, w, contacts.package_arm, first_inv_mass))
        for w in range(control.present.shape[0])
    ]
    lights, members = (_one(left, left.inv_mass), _one(left, left.inv_inertia)), _one(left, left.one_hot)
    bumps = []
    for w in range(right.feature_id.shape[1]):
        one_hot, constraint = _meet(right, w, left.r, (lights[0][w], lights[1][w]))
        bumps.append(WalkerContact(WalkerBody(w, members[:, w]), one_hot._replace(walker=w + 1), constraint))
    stands = [_stand(each, group) for each, group in zip(edges, (FEET, OTHERS), strict=True)]
    return _Problem(make_joints(world.pose[2], control.action), stands, carries, bumps, entered_by_hull(contacts))


def _sweep_hinges(problem: _Problem, state: _State) -> _State:
    """One sweep over the joints in Box2D's order, which depends on the body at which it reaches the walker."""
    bodies, held, entered = list(state.bodies), list(state.held), problem.entered
    knee, *others = ORDER
    for j, where in ((knee, ~entered), *((j, None) for j in others), (knee, entered)):
        a, b = PARENT[j], CHILD[j]
        before = bodies[a], bodies[b], held[j]
        after = solve_joint(problem.joints[j], j, *before)
        if where is not None:
            after = jax.tree.map(lambda new, old, where=where: jnp.where(where, new, old), after, before)
        bodies[a], bodies[b], held[j] = after
    return state._replace(bodies=bodies, held=held)


def _sweep_walkers(problem: _Problem, state: _State) -> _State:
    """One sweep over contacts of neighbours, then over contacts with the package, from the last walker to the first."""
    bodies, package, on_package, of_pairs = state.bodies, state.package, list(state.on_package), list(state.of_pairs)
    for w, bump in reversed(list(enumerate(problem.bumps))):
        left, right = _pick(bodies, bump.left), _pick(bodies, bump.right)
        new_left, new_right, of_pairs[w] = solve_contact(bump.constraint, left, right, of_pairs[w])
        bodies = _change(_change(bodies, bump.left, left, new_left), bump.right, right, new_right)
    for w, carry in reversed(list(enumerate(problem.carries))):
        before = _pick(bodies, carry.one_hot)
        package, after, on_package[w] = solve_contact(carry.constraint, package, before, on_package[w])
        bodies = _change(bodies, carry.one_hot, before, after)
    return state._replace(bodies=bodies, package=package, on_package=on_package, of_pairs=of_pairs)


def _sweep_ground(problem: _Problem, state: _State) -> _State:
    """One sweep over contacts with the ground, from right to left."""
    bodies, on_ground = list(state.bodies), []
    for stand, pressed in zip(problem.stands, state.on_ground, strict=True):
        x, y, spin = (jnp.stack([bodies[b][i] for b in stand.group]) for i in range(3))
        velocity, pressed = (x, y, spin), list(pressed)
        for k in reversed(range(len(pressed))):
            _, velocity, pressed[k] = solve_contact(stand.constraints[k], _nothing(), velocity, pressed[k])
        for i, b in enumerate(stand.group):
            bodies[b] = velocity[0][i], velocity[1][i], velocity[2][i]
        on_ground.append(pressed)
    return state._replace(bodies=bodies, on_ground=on_ground)


def _iterate(problem: _Problem, state: _State) -> _State:
    return _sweep_ground(problem, _sweep_walkers(problem, _sweep_hinges(problem, state)))


def _remember(constraint: ContactConstraint, impulse: jax.Array) -> ContactImpulse:
    """Impulses (2 points, 2 rows, ...) of the last step, at points that are still in use."""
    tangent, push = (tuple(jnp.where(constraint.pair.used[p], impulse[p, row], 0.0) for p in (0, 1)) for row in (0, 1))
    return ContactImpulse((tangent[0], tangent[1]), (push[0], push[1]))


def _remembered(problem: _Problem, world: World, control: Control, contacts: Contacts, edges: list[Edges]) -> _State:
    """Velocities before the constraint impulses of this step, and the accumulated impulses of the last step."""
    old, limits, on_ground = world.impulses, joint_limits(world.pose[2]), []
    kept = (old.feet, old.feet_code), (old.others, old.others_code)
    for stand, each, (impulse, old_feature_id) in zip(problem.stands, edges, kept, strict=True):
        feature_id = _points(each.feature_id)
        found = match_warm_start(feature_id, old_feature_id, impulse).reshape(2, len(stand.constraints), *impulse.shape[1:])
        on_ground.append([_remember(constraint, found[:, k]) for k, constraint in enumerate(stand.constraints)])
    on_package = match_warm_start(contacts.package.feature_id, old.package_code, old.package)
    of_pairs = match_warm_start(contacts.neighbours[1].feature_id, old.neighbours_code, old.neighbours)
    limit = jnp.where(limits.at_lower, old.limit.clip(0), jnp.where(limits.at_upper, old.limit.clip(None, 0), 0.0))
    velocity, its = integrate_velocities(world, control.push)
    return _State(
        bodies=[(velocity[0, b], velocity[1, b], velocity[2, b]) for b in range(NUM_BODIES)],
        package=(its[0], its[1], its[2]),
        held=[JointImpulse(old.motor[j], (old.hold[0, j], old.hold[1, j]), limit[j]) for j in range(NUM_JOINTS)],
        on_ground=on_ground,
        on_package=[_remember(carry.constraint, on_package[:, :, w]) for w, carry in enumerate(problem.carries)],
        of_pairs=[_remember(bump.constraint, of_pairs[:, :, w]) for w, bump in enumerate(problem.bumps)],
    )


def _warm_start(problem: _Problem, state: _State) -> _State:
    """Applies the accumulated impulses of the last step to the velocities."""
    bodies, package = list(state.bodies), state.package
    for j, held in enumerate(state.held):
        a, b = PARENT[j], CHILD[j]
        bodies[a], bodies[b] = apply_joint_impulse(
            problem.joints[j], j, bodies[a], bodies[b], held.hold, held.motor + held.limit
        )
    for stand, pressed in zip(problem.stands, state.on_ground, strict=True):
        for constraint, each in zip(stand.constraints, pressed, strict=True):
            _, change = warm_start_contact(constraint, each, _nothing(), _nothing())
            for i, b in enumerate(stand.group):
                x, y, spin = (value + part[i] for value, part in zip(bodies[b], change, strict=True))
                bodies[b] = x, y, spin
    for carry, pressed in zip(problem.carries, state.on_package, strict=True):
        package, change = warm_start_contact(carry.constraint, pressed, package, _nothing())
        bodies = _change(bodies, carry.one_hot, _nothing(), change)
    for bump, pressed in zip(problem.bumps, state.of_pairs, strict=True):
        left, right = warm_start_contact(bump.constraint, pressed, _nothing(), _nothing())
        bodies = _change(_change(bodies, bump.left, _nothing(), left), bump.right, _nothing(), right)
    return state._replace(bodies=bodies, package=package)


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, without landings of legs."""
    edges = edges_under(contacts)
    problem = _make_problem(world, control, contacts, edges, package)
    state = _warm_start(problem, _remembered(problem, world, control, contacts, edges))
    state = jax.lax.fori_loop(0, solver.velocity_iterations, lambda _, state: _iterate(problem, state), state)
    velocity = jnp.stack([jnp.stack([body[i] for body in state.bodies]) for i in range(3)])
    velocity, package_velocity = jnp.where(control.present, velocity, 0.0), jnp.stack(state.package)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    start = Start(
        world.pose, world.package_pose, contacts, edges, joint_limits(world.pose[2]), problem.entered, control.present
    )
    pose, package_pose = correct_positions(start, *moved, package, solver.position_iterations)
    return World(pose, velocity, package_pose, package_velocity, _kept(state, contacts, edges))


def _points(values: jax.Array) -> jax.Array:
    """Reshapes (2 points, K, ...) to (2 K, ...)."""
    return values.reshape(-1, *values.shape[2:])


def _stacked(pressed: list[ContactImpulse]) -> jax.Array:
    """Stacks the impulses of K manifolds, (2 points, 2 rows, K, ...)."""
    return jnp.stack([jnp.stack([jnp.stack([each[row][p] for each in pressed]) for row in (0, 1)]) for p in (0, 1)])


def _kept(state: _State, contacts: Contacts, edges: list[Edges]) -> Impulses:
    """Accumulated impulses for the next step."""
    feet, others = (_points(_stacked(pressed).swapaxes(1, 2)) for pressed in state.on_ground)
    no_pairs = jnp.zeros((2, 2, *contacts.neighbours[1].feature_id.shape[1:]))
    return Impulses(
        motor=jnp.stack([held.motor for held in state.held]),
        hold=jnp.stack([jnp.stack([held.hold[i] for held in state.held]) for i in (0, 1)]),
        limit=jnp.stack([held.limit for held in state.held]),
        feet=feet,
        others=others,
        package=_stacked(state.on_package),
        neighbours=_stacked(state.of_pairs) if state.of_pairs else no_pairs,
        feet_code=_points(edges[0].feature_id),
        others_code=_points(edges[1].feature_id),
        package_code=contacts.package.feature_id,
        neighbours_code=contacts.neighbours[1].feature_id,
    )
