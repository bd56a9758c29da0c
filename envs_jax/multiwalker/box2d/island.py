"""Solver that applies impulses at joints and contacts one after another, in Box2D's order (b2Island::Solve).

Box2D's 180 velocity iterations do not always converge, and bodies move with the velocities that result. This solver reproduces
those velocities. `physics.solver` finds the converged ones instead. Axes are as there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d.contacts import EDGES, ContactSet, Motions, contact_sets, make_constraints
from envs_jax.multiwalker.box2d.position_solver import PositionProblem, correct_positions
from envs_jax.multiwalker.box2d.revolute_joint import JointImpulse, RevoluteJoint, apply_joint_impulse, make_joints, solve_joint
from envs_jax.multiwalker.model import NUM_BODIES, NUM_JOINTS
from envs_jax.multiwalker.physics.articulation import CHILD, ORDER, PARENT, joint_limits
from envs_jax.multiwalker.physics.contact_constraint import ContactConstraint, ContactImpulse, solve_contact, warm_start_contact
from envs_jax.multiwalker.physics.contact_detection import Contacts, onto_left, onto_right
from envs_jax.multiwalker.physics.contact_solver import match_warm_start
from envs_jax.multiwalker.physics.geometry import joined, motion, running_count
from envs_jax.multiwalker.physics.world import (
    Control,
    Impulses,
    ImpulseShapes,
    Solver,
    World,
    integrate_positions,
    integrate_velocities,
)


def impulse_shapes(num_walkers: int, solver: Solver) -> ImpulseShapes:
    """Shapes of the impulses of joints (motor, x and y of the point constraint, limit) and of the points of `contact_sets`."""
    del solver
    pairs, ground = [(2,)] * (2 * num_walkers - 1), [(2 * edges, len(group), num_walkers) for group, edges in EDGES.items()]
    return (NUM_JOINTS, 4, num_walkers), [*pairs, *ground]


class _Problem(NamedTuple):
    """Joints, contacts and the constraints of each set of contacts. `entered` is as in `correct_joints`."""

    joints: list[RevoluteJoint]
    contacts: list[ContactSet]
    constraints: list[list[ContactConstraint]]
    entered: jax.Array


class _State(NamedTuple):
    """Velocities and accumulated impulses, in the order of `_Problem`."""

    motions: Motions
    joints: list[JointImpulse]
    contacts: list[list[ContactImpulse]]


def entered_by_hull(contacts: Contacts) -> jax.Array:
    """Walkers (n, E) that Box2D reaches by the package, after a later walker. It visits their first knee last."""
    carries = contacts.package.used.any(0)
    return carries & (running_count(carries) < carries.sum(0))


def _solve_joints(problem: _Problem, state: _State) -> _State:
    """One iteration over the joints in Box2D's order, which depends on the body at which it reaches the walker."""
    bodies, impulses, entered = list(state.motions.bodies), list(state.joints), problem.entered
    knee, *others = ORDER
    for j, where in ((knee, ~entered), *((j, None) for j in others), (knee, entered)):
        a, b = PARENT[j], CHILD[j]
        before = bodies[a], bodies[b], impulses[j]
        after = solve_joint(problem.joints[j], j, *before)
        if where is not None:
            after = jax.tree.map(lambda new, old, where=where: jnp.where(where, new, old), after, before)
        bodies[a], bodies[b], impulses[j] = after
    return state._replace(motions=state.motions._replace(bodies=tuple(bodies)), joints=impulses)


def _solve_contacts(problem: _Problem, state: _State) -> _State:
    """One iteration over the contacts. Those with the ground are visited from right to left."""
    motions, found = state.motions, []
    for contacts, constraints, impulses in zip(problem.contacts, problem.constraints, state.contacts, strict=True):
        before, impulses = tuple(place.read(motions) for place in contacts.places), list(impulses)
        after = before
        for k in reversed(range(len(impulses))):
            after, impulses[k] = solve_contact(constraints[k], after, impulses[k])
        for place, new, old in zip(contacts.places, after, before, strict=True):
            motions = place.add(motions, jax.tree.map(jnp.subtract, new, old))
        found.append(impulses)
    return state._replace(motions=motions, contacts=found)


def _match(contacts: ContactSet, constraints: list[ContactConstraint], old: jax.Array, ids: jax.Array) -> list[ContactImpulse]:
    """Impulses (2 K, 2, ...) of the last step, at points that are still in use."""
    found = match_warm_start(_flat(contacts.manifold.feature), ids, old)
    used = jnp.stack([jnp.stack(constraint.block.used) for constraint in constraints], 1)
    found = jnp.where(used[:, :, None], found.reshape(*used.shape[:2], *found.shape[1:]), 0.0)
    return [ContactImpulse(*((found[0, k, row], found[1, k, row]) for row in (0, 1))) for k in range(len(constraints))]


def _start(problem: _Problem, world: World, push: jax.Array) -> _State:
    """Velocities before the constraint impulses of this step, and the accumulated impulses of the last step."""
    old, limits = world.impulses, joint_limits(world.pose[2])
    velocity, package_velocity = integrate_velocities(world, push)
    joints = []
    for j, (motor, x, y, limit) in enumerate(old.joints):
        limit = jnp.where(limits.at_lower[j], limit.clip(0), jnp.where(limits.at_upper[j], limit.clip(None, 0), 0.0))
        joints.append(JointImpulse(motor, jnp.stack([x, y]), limit))
    bodies = tuple(motion(velocity[:, b]) for b in range(NUM_BODIES))
    found = map(_match, problem.contacts, problem.constraints, old.contacts, old.feature_ids)
    return _State(Motions(bodies, motion(package_velocity)), joints, [*found])


def _warm_start(problem: _Problem, state: _State) -> _State:
    """Applies the accumulated impulses of the last step to the velocities."""
    bodies = list(state.motions.bodies)
    for j, impulse in enumerate(state.joints):
        a, b, turn = PARENT[j], CHILD[j], impulse.motor + impulse.limit
        bodies[a], bodies[b] = apply_joint_impulse(problem.joints[j], j, bodies[a], bodies[b], impulse.point, turn)
    motions = state.motions._replace(bodies=tuple(bodies))
    for contacts, constraints, impulses in zip(problem.contacts, problem.constraints, state.contacts, strict=True):
        change = tuple(jax.tree.map(jnp.zeros_like, place.read(motions)) for place in contacts.places)
        for constraint, impulse in zip(constraints, impulses, strict=True):
            change = warm_start_contact(constraint, impulse, change)
        for place, each in zip(contacts.places, change, strict=True):
            motions = place.add(motions, each)
    return state._replace(motions=motions)


def _flat(values: jax.Array) -> jax.Array:
    """Reshapes (2 points, K, ...) to (2 K, ...)."""
    return values.reshape(-1, *values.shape[2:])


def _stacked(impulses: list[ContactImpulse]) -> jax.Array:
    """Stacks the impulses of K manifolds, (2 K points, 2 rows, ...)."""
    return jnp.stack([jnp.stack([each.tangent[p], each.normal[p]]) for p in (0, 1) for each in impulses])


def solve(world: World, control: Control, contacts: Contacts, package: model.Package, solver: Solver) -> World:
    """World after a step, before continuous collision detection."""
    sets, entered = contact_sets(contacts, package), entered_by_hull(contacts)
    problem = _Problem(make_joints(world.pose[2], control.action), sets, [*map(make_constraints, sets)], entered)

    def iteration(_: jax.Array, state: _State) -> _State:
        return _solve_contacts(problem, _solve_joints(problem, state))

    state = _warm_start(problem, _start(problem, world, control.push))
    (bodies, its), joints, of_contacts = jax.lax.fori_loop(0, solver.velocity_iterations, iteration, state)
    velocity = jnp.where(control.present, jnp.stack([joined(body) for body in bodies], 1), 0.0)
    package_velocity = joined(its)
    moved = integrate_positions(world.pose, velocity), integrate_positions(world.package_pose, package_velocity)
    carried, meets = contacts.package.used.any(0), contacts.neighbours[1].used.any(0)
    linked = carried | onto_left(meets) | onto_right(meets)
    poses, limits = (world.pose, world.package_pose), joint_limits(world.pose[2])
    positions = PositionProblem(*poses, sets, limits, entered, control.present, linked, carried)
    pose, package_pose = correct_positions(positions, *moved, solver.position_iterations)
    of_joints = jnp.stack([jnp.stack([each.motor, *each.point, each.limit]) for each in joints])
    ids = tuple(_flat(each.manifold.feature) for each in sets)
    impulses = Impulses(of_joints, tuple(map(_stacked, of_contacts)), ids)
    return World(pose, velocity, package_pose, package_velocity, impulses)
