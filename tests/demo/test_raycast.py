"""The fast ray casting against slow references: shapes against their definition, culling against none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from demo import raycast
from demo.primitives import Builder, Pose, Primitives, Shape
from demo.raycast import MISS, Beam, Fan, cast
from tests.demo.helpers import inside, street

UNLIMITED = np.float32(np.inf)


def random_solid(rng: np.random.Generator, shape: Shape) -> Primitives:
    b = Builder(1)
    x, y, z, yaw = rng.uniform((-2, -2, -2, -3), (2, 2, 2, 3))
    pose = Pose(x, y, z, yaw)
    if shape == Shape.CAPSULE:
        start, end = (tuple(rng.uniform(-1, 1, 3)) for _ in range(2))
        b.capsule(pose, start, end, rng.uniform(0.05, 0.5), 5, 1, (1, 1, 1))
    else:
        half = tuple(rng.uniform(0.2, 1.5, 3))
        taper = tuple(rng.uniform(0, 0.99, 2)) if shape == Shape.WEDGE else (0.0, 0.0)
        b.solid(shape, pose, (0, 0, 0), half, 2, 1, (1, 1, 1), taper=taper)
    return b.finish()


def rays_towards(
    rng: np.random.Generator, target: NDArray[np.floating], eye: NDArray[np.float64]
) -> NDArray[np.float32]:
    rays = target + rng.normal(0, 0.9, (400, 3)) - eye
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", list(Shape))
def test_first_hit_is_where_the_ray_enters_the_shape(shape: Shape) -> None:
    """Catches: wrong roots, wrong planes of leaning sides, wrong frames, hits behind the eye."""
    rng = np.random.default_rng(int(shape))
    total = 0
    for _ in range(12):
        solids = random_solid(rng, shape)
        eye = rng.uniform(-1, 1, 3) * 2 + np.array([7.0, 0, 0])
        rays = rays_towards(rng, solids.centre[0], eye)
        hits = cast(solids, Fan(rays[None], eye), np.full((1, len(rays)), UNLIMITED))
        steps = np.arange(0, 16, 0.01)
        path = eye + rays[:, None].astype(np.float64) * steps[None, :, None]
        within = inside(solids, 0, path.reshape(-1, 3)).reshape(len(rays), -1)
        entered = within.any(1)
        first = steps[within.argmax(1)]
        hit = hits.solid[0] == 0
        total += int(hit.sum())
        assert (entered <= hit).all()  # what the samples find, the formula finds
        both = hit & entered
        assert np.abs(hits.distance[0, both] - first[both]).max() < 0.0102
        grazing = np.nonzero(hit & ~entered)[0]  # the formula may graze between two samples
        assert len(grazing) < 0.05 * len(rays)
    assert total > 300


def brute(solids: Primitives, rays: NDArray[np.float32], eye: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Every ray against every solid, no culling."""
    best, which = np.full(len(rays), np.inf, np.float32), np.full(len(rays), MISS)
    everything = Fan(rays[None], eye)
    with np.errstate(all="ignore"):
        for k in range(len(solids)):
            e, o = everything.rays(np.array([0]), solids.centre[k])
            t = raycast._distance(solids, k, e, o)[0]
            which[t < best] = k
            best = np.minimum(best, t)
    return best, which


@pytest.mark.parametrize("seed", [0, 1])
def test_culling_changes_nothing(seed: int) -> None:
    """Catches: bounds that are too tight, at the zenith, under tree crowns, beside long walls."""
    scene = street(seed)
    rng = np.random.default_rng(seed)
    rays = rng.normal(0, 1, (2048, 3)) * [1, 1, 0.35]
    rays[:64, :2] *= 0.01  # straight up and down
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(np.arctan2(rays[:, 1], rays[:, 0])).reshape(-1, 16)
    hits = cast(scene.primitives, Fan(rays[order], scene.eye), np.full(order.shape, UNLIMITED))
    distance, solid = brute(scene.primitives, rays, scene.eye)
    np.testing.assert_array_equal(hits.distance, distance[order])
    same = hits.solid == solid[order]
    assert same.mean() > 0.999  # two touching solids may tie
    assert (solid != MISS).mean() > 0.4


def test_beam_culling_changes_nothing() -> None:
    """The sun's parallel rays, bundled or one by one, stop at the same places."""
    scene = street(2)
    sun = np.array([0.5, -0.4, 0.6]) / np.linalg.norm([0.5, -0.4, 0.6])
    x, y = (a.astype(np.float32) for a in np.meshgrid(np.linspace(-30, 30, 48), np.linspace(-20, 20, 32)))
    together = Beam(x.reshape(1, -1), y.reshape(1, -1), sun, 90.0)
    apart = Beam(x.reshape(-1, 16), y.reshape(-1, 16), sun, 90.0)
    one = cast(scene.primitives, together, np.full(together.shape, UNLIMITED)).distance.ravel()
    many = cast(scene.primitives, apart, np.full(apart.shape, UNLIMITED)).distance.ravel()
    np.testing.assert_array_equal(one, many)
    assert 0.2 < np.isfinite(one).mean() < 1


def test_nearer_limit_hides_solids() -> None:
    b = Builder(1)
    b.solid(Shape.BOX, Pose(5, 0, 0), (0, 0, 0), (1, 1, 1), 2, 1, (1, 1, 1))
    rays = np.array([[[1.0, 0, 0]]], np.float32)
    fan = Fan(rays, np.zeros(3))
    assert cast(b.finish(), fan, np.full((1, 1), 3.0, np.float32)).solid[0, 0] == MISS
    hits = cast(b.finish(), fan, np.full((1, 1), 9.0, np.float32))
    assert hits.solid[0, 0] == 0
    assert hits.distance[0, 0] == pytest.approx(4.0)
