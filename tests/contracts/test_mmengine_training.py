"""Private parts of onedl-mmengine 0.10.12 and onedl-mmsegmentation 1.4.2 that `mmengine_internals` uses."""

from __future__ import annotations

import inspect
from typing import Any

import mmengine.fileio.file_client
import mmengine.optim.optimizer.default_constructor
import numpy as np
import pytest
from mmengine.device import get_device
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmseg.registry import TRANSFORMS
from torch.utils.data import DataLoader

from pipeline.models.mmseg_import import import_mmseg
from stages.train.mmengine_internals import seed_transforms, use_device
from stages.train.sampler import NumberedSampler


def test_models_are_moved_to_the_device_that_is_set() -> None:
    device = get_device()
    with use_device("meta"):
        assert get_device() == "meta"
    assert get_device() == device
    assert "model.to(get_device())" in inspect.getsource(Runner.wrap_model)


def test_a_resumed_loop_skips_samples_in_the_sampler() -> None:
    def batches(skip: int) -> list[Any]:
        loader = DataLoader(list(range(5)), 2, sampler=_Indices(5, seed=0))  # type: ignore[arg-type]
        iterator = _InfiniteDataloaderIterator(loader)
        iterator.skip_iter(skip)
        return [next(iterator).tolist() for _ in range(4)]

    assert batches(skip=2)[:2] == batches(skip=0)[2:]


class _Indices(NumberedSampler):
    def __iter__(self) -> Any:
        return (index for index, *_ in super().__iter__())


@pytest.mark.parametrize("transform", [{"type": "PhotoMetricDistortion"}, {"type": "RandomFlip", "prob": 0.5}])
def test_transforms_draw_from_numpys_global_generator(transform: dict[str, Any]) -> None:
    import_mmseg()
    apply = TRANSFORMS.build(transform)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)

    def augmented(seed: int) -> bytes:
        seed_transforms(3, seed)
        return apply({"img": image.copy(), "img_shape": (8, 8)})["img"].tobytes()

    results = [augmented(seed) for seed in range(8)]
    assert results == [augmented(seed) for seed in range(8)]
    assert len(set(results)) > 1


def test_the_runner_takes_the_sections_of_a_config_and_a_loader() -> None:
    names = set(inspect.signature(Runner).parameters)
    assert {"model", "work_dir", "train_dataloader", "train_cfg", "optim_wrapper", "custom_hooks", "cfg"} <= names


def test_the_log_records_that_are_left_out() -> None:
    assert "paramwise_options --" in inspect.getsource(mmengine.optim.optimizer.default_constructor)
    assert '"FileClient" will be deprecated' in inspect.getsource(mmengine.fileio.file_client)
    assert '"HardDiskBackend" is the alias' in inspect.getsource(mmengine.fileio.file_client)
