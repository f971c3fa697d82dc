"""What the world promises about its contents."""

import numpy as np
import pytest

from demo.classes import Class
from demo.domain import FAR, SHIFTS, SOURCE, Shift, target_domain
from demo.layout import Crossing, Layout, Side
from demo.primitives import Builder, Pose, Shape
from demo.render import Labels, render_labels
from demo.scene import draw_scene
from demo.splits import SPLITS, Split, WorldSettings, render_sample, sample

THINGS = (
    Class.POLE,
    Class.PERSON,
    Class.RIDER,
    Class.CAR,
    Class.TRUCK,
    Class.BUS,
    Class.BICYCLE,
    Class.TRAIN,
)


def labels_of(split: Split, index: int, settings: WorldSettings | None = None) -> Labels:
    s = sample(settings or WorldSettings(), split, index)
    return render_labels(s.scene, s.camera)


@pytest.mark.parametrize("split", ["source-train", "target-test"])
def test_same_seed_same_bytes(split: Split) -> None:
    one, two = (render_sample(WorldSettings(), split, 3) for _ in range(2))
    assert one.image.tobytes() == two.image.tobytes()
    assert one.labels.semantic.tobytes() == two.labels.semantic.tobytes()
    assert one.labels.instance.tobytes() == two.labels.instance.tobytes()


def test_seed_split_and_index_each_change_the_scene() -> None:
    base = labels_of("target-test", 0).semantic
    assert (base != labels_of("target-test", 1).semantic).mean() > 0.1
    assert (base != labels_of("target-tune", 0).semantic).mean() > 0.1
    assert (base != labels_of("target-test", 0, WorldSettings(seed=1)).semantic).mean() > 0.1


def test_shapes_and_types() -> None:
    pinhole = render_sample(WorldSettings(), "source-val", 0)
    panorama = render_sample(WorldSettings(), "target-tune", 0)
    assert pinhole.image.shape == (128, 256, 3)
    assert panorama.image.shape == (200, 1024, 3)
    for frame in (pinhole, panorama):
        assert frame.image.dtype == np.uint8
        assert frame.labels.semantic.dtype == np.uint8
        assert frame.labels.instance.dtype == np.uint16
        assert frame.labels.semantic.shape == frame.labels.instance.shape == frame.image.shape[:2]
    full = sample(WorldSettings(size="full"), "target-tune", 0).camera
    assert (full.height, full.width) == (400, 2048)


def test_every_instance_has_one_class_and_only_the_sky_has_none() -> None:
    for index in range(6):
        found = labels_of("target-train", index)
        pairs = np.unique(np.stack([found.instance.ravel(), found.semantic.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]
        np.testing.assert_array_equal(found.instance == 0, found.semantic == Class.SKY)
        assert len(np.unique(found.instance)) > 30


def test_census_over_a_few_panoramas_has_nearly_all_classes() -> None:
    counts = np.zeros(19, np.int64)
    for index in range(12):
        counts += np.bincount(labels_of("target-train", index).semantic.ravel(), minlength=19)
    assert (counts > 0).sum() >= 17
    share = counts / counts.sum()
    assert 0.15 < share[Class.ROAD] < 0.5
    assert share[Class.BUILDING] > 0.15
    assert 0.02 < share[Class.SKY] < 0.45
    assert share[Class.CAR] > 0.01
    assert share[Class.PERSON] > 0.002


def test_things_lie_astride_the_seam() -> None:
    astride = 0
    for index in range(8):
        found = labels_of("target-train", index)
        same = (found.instance[:, 0] == found.instance[:, -1]) & np.isin(found.semantic[:, 0], THINGS)
        astride += bool(same.any())
    assert astride >= 5


def test_things_lie_astride_inner_window_edges() -> None:
    astride = 0
    for index in range(4):
        found = labels_of("target-train", index)
        for edge in range(128, 1024, 128):
            same = found.instance[:, edge] == found.instance[:, edge - 1]
            astride += bool((same & np.isin(found.semantic[:, edge], THINGS)).any())
    assert astride >= 10


def test_shift_moves_the_target_away_from_the_source() -> None:
    assert target_domain("none") == SOURCE
    assert target_domain("strong") == FAR
    mild = target_domain("mild")
    assert SOURCE.camera_height[0] < mild.camera_height[0] < FAR.camera_height[0]
    heights: dict[Shift, float] = {}
    for shift in SHIFTS:
        eyes = [sample(WorldSettings(shift=shift), "target-test", k).scene.eye[2] for k in range(4)]
        heights[shift] = float(np.mean(eyes))
    assert heights["none"] < heights["mild"] < heights["strong"]
    settings = WorldSettings(shift="strong")
    np.testing.assert_array_equal(labels_of("source-val", 0, settings).semantic, labels_of("source-val", 0).semantic)


def test_samples_of_different_splits_never_share_a_scene() -> None:
    eyes = {tuple(sample(WorldSettings(), split, k).scene.eye) for split in SPLITS for k in range(3)}
    assert len(eyes) == 3 * len(SPLITS)


def test_ground_plan_strips_and_rounded_corners() -> None:
    side = Side(verge=1.0, sidewalk=2.0, yard=3.0, parking=False)
    layout = Layout(1, (side, side), Crossing(20.0, 4.0, 2.0), corner_radius=3.0, rails=False)
    kerb = layout.kerb(0)
    x = np.array([0, 0, 0, 0, 20, 25.0, 24.3, 0], np.float32)
    y = np.array([0, kerb + 0.5, kerb + 2, kerb + 5, 30, 30, kerb + 0.3, -kerb - 2], np.float32)
    semantic, instance = layout.segments(x, y)
    walk, soil, road = Class.SIDEWALK, Class.TERRAIN, Class.ROAD
    assert semantic.tolist() == [road, soil, walk, soil, road, walk, road, walk]
    assert len(set(instance[[1, 2, 3, 5, 7]].tolist())) == 5
    assert instance[0] == instance[4] == instance[6]


def test_too_many_instances_are_refused() -> None:
    b = Builder(65_535)
    for _ in range(2):
        b.solid(Shape.BOX, Pose(0, 0), (0, 0, 0), (1, 1, 1), 2, b.instance(), (1, 1, 1))
    with pytest.raises(ValueError, match="do not fit into 16 bits"):
        b.finish()


def test_scene_depends_on_the_generator_alone() -> None:
    one, two = (draw_scene(np.random.default_rng(9), SOURCE, 10.0) for _ in range(2))
    assert one.primitives.centre.tobytes() == two.primitives.centre.tobytes()
    assert one.primitives.colour.tobytes() == two.primitives.colour.tobytes()
