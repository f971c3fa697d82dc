"""Ray casting against slow references: shapes against their definition, culling against no culling."""

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.intersect import intersect_solid
from demo.primitives import Pose, Primitives, SceneBuilder, Shape
from demo.raycast import MISS, ParallelPackets, PointPackets, cast_rays
from tests.demo.helpers import inside, street

UNLIMITED = np.float32(np.inf)


def random_solid(rng: np.random.Generator, shape: Shape) -> Primitives:
    builder = SceneBuilder(1)
    x, y, z, yaw = rng.uniform((-2, -2, -2, -3), (2, 2, 2, 3))
    obj = builder.new_object(Pose(x, y, z, yaw), 5)
    if shape == Shape.CAPSULE:
        start, end = (tuple(rng.uniform(-1, 1, 3)) for _ in range(2))
        obj.add_capsule(start, end, rng.uniform(0.05, 0.5), (1, 1, 1))
    else:
        half = tuple(rng.uniform(0.2, 1.5, 3))
        taper = tuple(rng.uniform(0, 0.99, 2)) if shape == Shape.WEDGE else (0.0, 0.0)
        obj.add_solid(shape, (0, 0, 0), half, (1, 1, 1), taper=taper)
    return builder.build()


def rays_towards(
    rng: np.random.Generator, target: NDArray[np.floating], eye: NDArray[np.float64]
) -> NDArray[np.float32]:
    rays = target + rng.normal(0, 0.9, (400, 3)) - eye
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", list(Shape))
def test_first_hit_is_where_the_ray_enters_the_shape(shape: Shape) -> None:
    """Catches wrong roots, wrong planes of sloping sides, wrong frames, hits behind the camera."""
    rng = np.random.default_rng(int(shape))
    total = 0
    for _ in range(12):
        solids = random_solid(rng, shape)
        eye = rng.uniform(-1, 1, 3) * 2 + np.array([7.0, 0, 0])
        rays = rays_towards(rng, solids.centre[0], eye)
        hits = cast_rays(solids, PointPackets(rays[None], eye), np.full((1, len(rays)), UNLIMITED))
        steps = np.arange(0, 16, 0.01)
        path = eye + rays[:, None].astype(np.float64) * steps[None, :, None]
        is_inside = inside(solids, 0, path.reshape(-1, 3)).reshape(len(rays), -1)
        entered = is_inside.any(1)
        first = steps[is_inside.argmax(1)]
        hit = hits.solid[0] == 0
        total += int(hit.sum())
        assert (entered <= hit).all()
        both = hit & entered
        assert np.abs(hits.distance[0, both] - first[both]).max() < 0.0102
        grazing = np.nonzero(hit & ~entered)[0]  # the exact ray may graze the shape between two samples
        assert len(grazing) < 0.05 * len(rays)
    assert total > 300


def cast_without_culling(
    solids: Primitives, rays: NDArray[np.float32], eye: NDArray[np.float64]
) -> tuple[NDArray, NDArray]:
    """Tests every ray against every solid."""
    distance, solid = np.full(len(rays), np.inf, np.float32), np.full(len(rays), MISS)
    packet = PointPackets(rays[None], eye)
    with np.errstate(all="ignore"):
        for k in range(len(solids)):
            t = intersect_solid(solids, k, *packet.local_rays(np.array([0]), solids.centre[k]))[0]
            solid[t < distance] = k
            distance = np.minimum(distance, t)
    return distance, solid


@pytest.mark.parametrize("seed", [0, 1])
def test_culling_changes_nothing(seed: int) -> None:
    """Catches bounds that are too tight: at the zenith, under tree crowns, beside long walls."""
    scene = street(seed)
    rng = np.random.default_rng(seed)
    rays = rng.normal(0, 1, (2048, 3)) * [1, 1, 0.35]
    rays[:64, :2] *= 0.01  # straight up and down
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(np.arctan2(rays[:, 1], rays[:, 0])).reshape(-1, 16)
    hits = cast_rays(scene.primitives, PointPackets(rays[order], scene.eye), np.full(order.shape, UNLIMITED))
    distance, solid = cast_without_culling(scene.primitives, rays, scene.eye)
    np.testing.assert_array_equal(hits.distance, distance[order])
    same = hits.solid == solid[order]
    assert same.mean() > 0.999  # two touching solids may tie
    assert (solid != MISS).mean() > 0.4


def test_culling_of_parallel_rays_changes_nothing() -> None:
    """The distances of parallel rays do not depend on the packets."""
    scene = street(2)
    sun = np.array([0.5, -0.4, 0.6]) / np.linalg.norm([0.5, -0.4, 0.6])
    x, y = (a.astype(np.float32) for a in np.meshgrid(np.linspace(-30, 30, 48), np.linspace(-20, 20, 32)))
    together = ParallelPackets(x.reshape(1, -1), y.reshape(1, -1), sun, 90.0)
    apart = ParallelPackets(x.reshape(-1, 16), y.reshape(-1, 16), sun, 90.0)
    one = cast_rays(scene.primitives, together, np.full(together.shape, UNLIMITED)).distance.ravel()
    many = cast_rays(scene.primitives, apart, np.full(apart.shape, UNLIMITED)).distance.ravel()
    np.testing.assert_array_equal(one, many)
    assert 0.2 < np.isfinite(one).mean() < 1


def test_a_closer_limit_hides_solids() -> None:
    builder = SceneBuilder(1)
    builder.new_object(Pose(5, 0, 0), 2).add_solid(Shape.BOX, (0, 0, 0), (1, 1, 1), (1, 1, 1))
    solids = builder.build()
    rays = np.array([[[1.0, 0, 0]]], np.float32)
    packets = PointPackets(rays, np.zeros(3))
    assert cast_rays(solids, packets, np.full((1, 1), 3.0, np.float32)).solid[0, 0] == MISS
    hits = cast_rays(solids, packets, np.full((1, 1), 9.0, np.float32))
    assert hits.solid[0, 0] == 0
    assert hits.distance[0, 0] == pytest.approx(4.0)
