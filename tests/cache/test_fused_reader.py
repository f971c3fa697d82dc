"""What loader processes receive reads panoramas without settings, manifest or markers of other images."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from pipeline.cache.fused_reader import CacheReader, FusedReader
from pipeline.core.errors import ImageError
from pipeline.data.samples import Reader
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project


@pytest.fixture
def reader(project: Project) -> FusedReader:
    precompute(project.manifest(), project.config("fusion.rule=ssa"))
    fuse(project.manifest(), project.config("fusion.rule=ssa"))
    return CacheReader(project.manifest(), project.config("fusion.rule=ssa"), ("train",)).reader


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_the_same_without_settings_and_manifest(
    project: Project, reader: FusedReader, method: str
) -> None:
    assert isinstance(reader, Reader)
    assert reader.ids == ("p000", "p001", "p002")
    expected = [(reader.image(i), reader.fused(i), reader.label(i)) for i in reader.ids]
    project.manifest_path.unlink()
    project.config_path.unlink()
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as process:
        for image_id, (image, fused, label) in zip(reader.ids, expected, strict=True):
            np.testing.assert_array_equal(process.submit(reader.image, image_id).result(), image)
            np.testing.assert_array_equal(process.submit(reader.label, image_id).result(), label)
            sample = process.submit(reader.fused, image_id).result()
            for name, array in vars(fused).items():
                np.testing.assert_array_equal(getattr(sample, name), array)


def test_images_that_are_no_longer_fused_are_refused_when_they_are_read(project: Project, reader: FusedReader) -> None:
    artefact = CacheReader(project.manifest(), project.config("fusion.rule=ssa")).artefact
    artefact.remove_marker("p001")
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    with pytest.raises(ImageError, match="p001"):
        copy.fused("p001")
    assert copy.fused("p000").label.shape == copy.image("p000").shape[:2]
