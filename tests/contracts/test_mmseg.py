"""Private parts of mmsegmentation (onedl-mmsegmentation 1.4.2) that `stages.export.mmseg_internals` uses."""

from __future__ import annotations

import pytest
import torch
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.utils import Upsample

from pipeline.models.normalization import Normalization
from stages.export.mmseg_internals import integer_upsampling, preprocessor_normalization

PIXELS = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("values", [{}, {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}])
def test_a_preprocessor_shows_its_normalization(swapped: bool, values: dict[str, list[float]]) -> None:
    preprocessor = SegDataPreProcessor(rgb_to_bgr=swapped, **values)
    normalization = preprocessor_normalization(preprocessor)
    channels = "BGR" if swapped else "RGB"
    assert normalization == Normalization(channels=channels, **{k: tuple(v) for k, v in values.items()})
    expected = preprocessor({"inputs": [PIXELS]}, False)["inputs"][0]
    torch.testing.assert_close(
        torch.from_numpy(normalization.normalize(PIXELS.permute(1, 2, 0).numpy())), expected.float()
    )


@pytest.mark.parametrize("align_corners", [False, None])
def test_upsampling_by_integers_is_that_of_the_layer(align_corners: bool | None) -> None:
    network = torch.nn.Sequential(Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners))
    features = torch.randn(1, 2, 5, 7)
    expected = network(features)
    with integer_upsampling(network):
        assert "forward" in vars(network[0]), "the layer is replaced"
        torch.testing.assert_close(network(features), expected, rtol=0, atol=0)
    assert "forward" not in vars(network[0])


@pytest.mark.parametrize("layer", [Upsample(size=(4, 4), mode="nearest"), Upsample(scale_factor=1.5, mode="nearest")])
def test_other_layers_are_left_alone(layer: Upsample) -> None:
    with integer_upsampling(layer):
        assert "forward" not in vars(layer)
