"""Contents of the world: determinism, classes, hard cases, domain shift, ground plan."""

import numpy as np
import pytest

from demo.classes import Class
from demo.domain import SHIFTS, SOURCE, STRONG_TARGET, Shift, target_domain
from demo.layout import CrossStreet, Layout, RoadSide
from demo.primitives import Pose, SceneBuilder, Shape
from demo.render import Labels, render_labels
from demo.splits import SPLITS, Split, WorldSettings, draw_sample, render_sample

THINGS = (
    Class.POLE, Class.PERSON, Class.RIDER, Class.CAR, Class.TRUCK, Class.BUS, Class.BICYCLE, Class.TRAIN,
)  # fmt: skip


def labels_of(split: Split, index: int, settings: WorldSettings | None = None) -> Labels:
    sample = draw_sample(settings or WorldSettings(), split, index)
    return render_labels(sample.scene, sample.camera)


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
    full = draw_sample(WorldSettings(size="full"), "target-tune", 0).camera
    assert (full.height, full.width) == (400, 2048)


def test_every_instance_has_one_class_and_only_the_sky_has_id_0() -> None:
    for index in range(6):
        labels = labels_of("target-train", index)
        pairs = np.unique(np.stack([labels.instance.ravel(), labels.semantic.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]
        np.testing.assert_array_equal(labels.instance == 0, labels.semantic == Class.SKY)
        assert len(np.unique(labels.instance)) > 30


def test_a_few_panoramas_contain_nearly_all_classes() -> None:
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


def test_things_cross_the_seam() -> None:
    crossing = 0
    for index in range(8):
        labels = labels_of("target-train", index)
        same = (labels.instance[:, 0] == labels.instance[:, -1]) & np.isin(labels.semantic[:, 0], THINGS)
        crossing += bool(same.any())
    assert crossing >= 5


def test_things_cross_inner_window_edges() -> None:
    crossing = 0
    for index in range(4):
        labels = labels_of("target-train", index)
        for edge in range(128, 1024, 128):
            same = labels.instance[:, edge] == labels.instance[:, edge - 1]
            crossing += bool((same & np.isin(labels.semantic[:, edge], THINGS)).any())
    assert crossing >= 10


def test_shift_moves_the_target_away_from_the_source() -> None:
    assert target_domain("none") == SOURCE
    assert target_domain("strong") == STRONG_TARGET
    mild = target_domain("mild")
    assert SOURCE.camera_height[0] < mild.camera_height[0] < STRONG_TARGET.camera_height[0]
    heights: dict[Shift, float] = {}
    for shift in SHIFTS:
        eyes = [draw_sample(WorldSettings(shift=shift), "target-test", k).scene.eye[2] for k in range(4)]
        heights[shift] = float(np.mean(eyes))
    assert heights["none"] < heights["mild"] < heights["strong"]
    settings = WorldSettings(shift="strong")
    np.testing.assert_array_equal(labels_of("source-val", 0, settings).semantic, labels_of("source-val", 0).semantic)


def test_samples_of_different_splits_never_share_a_scene() -> None:
    eyes = {tuple(draw_sample(WorldSettings(), split, k).scene.eye) for split in SPLITS for k in range(3)}
    assert len(eyes) == 3 * len(SPLITS)


def test_ground_plan_strips_and_rounded_corners() -> None:
    side = RoadSide(verge=1.0, sidewalk=2.0, yard=3.0, parking=False)
    layout = Layout(1, (side, side), CrossStreet(20.0, 4.0, 2.0), corner_radius=3.0, rails=False)
    kerb = layout.kerb(0)
    x = np.array([0, 0, 0, 0, 20, 25.0, 24.3, 0], np.float32)
    y = np.array([0, kerb + 0.5, kerb + 2, kerb + 5, 30, 30, kerb + 0.3, -kerb - 2], np.float32)
    semantic, instance = layout.ground_labels(x, y)
    walk, soil, road = Class.SIDEWALK, Class.TERRAIN, Class.ROAD
    assert semantic.tolist() == [road, soil, walk, soil, road, walk, road, walk]
    assert len(set(instance[[1, 2, 3, 5, 7]].tolist())) == 5
    assert instance[0] == instance[4] == instance[6]


def test_too_many_instances_are_rejected() -> None:
    builder = SceneBuilder(65_535)
    for _ in range(2):
        builder.new_object(Pose(0, 0), 2).add_solid(Shape.BOX, (0, 0, 0), (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="expected ids that fit into 16 bits"):
        builder.build()
