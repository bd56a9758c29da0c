"""Constants, shapes and mass properties of a walker and the package, in SI units. Arrays of bodies begin with the hull."""

from typing import Any, NamedTuple

import numpy as np

SCALE = 30.0
TIME_STEP = 1 / 50
GRAVITY = -10.0
COLLISION_MARGIN = 0.02  # collision margin between two shapes: twice Box2D's b2_polygonRadius
LEG_DOWN = -8 / SCALE
LEG_HEIGHT = 34 / SCALE
UPPER_WIDTH, LOWER_WIDTH = 8 / SCALE, 0.8 * 8 / SCALE
TORQUE = 80.0
JOINT_SPEED = np.array([4.0, 6.0, 4.0, 6.0])
TERRAIN_FRICTION, PACKAGE_FRICTION = 2.5, 0.5

# The bodies are the hull, then the upper and the lower leg of each side. The joints are the hip and the knee of each side.
NUM_BODIES, NUM_JOINTS = 5, 4
HULL, LEGS, LOWER_LEGS = 0, slice(1, 5), slice(2, 5, 2)
FRICTION = np.array([0.1, 0.2, 0.2, 0.2, 0.2])
JOINT_LOWER = np.array([-0.8, -1.6, -0.8, -1.6])
JOINT_UPPER = np.array([1.1, -0.1, 1.1, -0.1])
START_ANGLE = 0.05 * np.array([0, -1, -1, 1, 1])
JOINT_REFERENCE = np.array([START_ANGLE[1], 0.0, START_ANGLE[3], 0.0])


def single(values: Any) -> np.ndarray:
    """Converts `values` to a float32 array."""
    return np.asarray(values, np.float32)


class Polygons(NamedTuple):
    """Convex polygons with V corners in counter-clockwise order. A polygon with fewer corners repeats the last one."""

    corner: np.ndarray  # (V, ..., 2)
    normal: np.ndarray  # (V, ..., 2), outward unit normal of the side from each corner to the next
    real: np.ndarray  # (V, ...) bool, whether that side has a positive length


def polygons(corners: np.ndarray) -> Polygons:
    """Makes polygons from their corners (V, ..., 2)."""
    side = np.roll(corners, -1, 0) - corners
    length = np.linalg.norm(side, axis=-1, keepdims=True)
    normal = np.stack([side[..., 1], -side[..., 0]], -1) / np.maximum(length, 1e-9)
    return Polygons(corners, normal, length[..., 0] > 0)


def mass_properties(corner: np.ndarray, density: float) -> tuple[float, float, np.ndarray]:
    """Mass, moment of inertia about the centre of mass, and centre of mass of a polygon with corners (V, 2)."""
    following = np.roll(corner, -1, 0)
    double_area = corner[:, 0] * following[:, 1] - corner[:, 1] * following[:, 0]
    mass = density * double_area.sum() / 2
    centre = ((corner + following) * double_area[:, None]).sum(0) / (3 * double_area.sum())
    second = (corner**2 + corner * following + following**2).sum(1)
    inertia = density * (double_area * second).sum() / 12
    return mass, inertia - mass * centre @ centre, centre


def box(width: float, height: float) -> np.ndarray:
    """Corners of a box centred at the origin, (4, 2)."""
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([width, height]) / 2


_HULL = np.array([(34, 1), (6, 9), (-30, 9), (-30, -8), (34, -8)]) / SCALE
_SHAPES = [_HULL, *[box(width, LEG_HEIGHT) for _ in range(2) for width in (UPPER_WIDTH, LOWER_WIDTH)]]
_PROPERTIES = [mass_properties(shape, density) for shape, density in zip(_SHAPES, (5.0, 1.0, 1.0, 1.0, 1.0), strict=True)]

MASS = np.array([mass for mass, _, _ in _PROPERTIES])
INERTIA = np.array([inertia for _, inertia, _ in _PROPERTIES])
HULL_CENTRE = _PROPERTIES[0][2]  # centre of mass, relative to the hull's origin, which observations use
BODIES = polygons(np.stack([np.concatenate([s, s[-1:]])[:5] - c for s, (_, _, c) in zip(_SHAPES, _PROPERTIES, strict=True)], 1))


class Package(NamedTuple):
    """Package that walkers carry."""

    length: float  # metres
    mass: float  # kilograms
    inertia: float  # moment of inertia about the centre of mass
    shape: Polygons  # polygon around the centre of mass, with as many corners as those of `BODIES`


def make_package(num_walkers: int) -> Package:
    """Makes the package of `num_walkers` walkers. Its length is proportional to their number."""
    length = 240 / SCALE * num_walkers / 1.75
    corner = box(length, 10 / SCALE)
    mass, inertia, _ = mass_properties(corner, 1.0)
    return Package(length, mass, inertia, polygons(np.concatenate([corner, corner[-1:]])))
