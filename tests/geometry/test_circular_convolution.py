"""Circular convolutions: against padding by hand, and equivariant to rolls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import wrappers
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from pipeline.core.errors import UserError
from pipeline.geometry.circular_convolution import CircularConv2d, circular_padding_enabled, make_circular
from stages.train import register  # noqa: F401
from stages.train.configs import CONFIGS


def layer(kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> torch.nn.Sequential:
    torch.manual_seed(0)
    padding = dilation * (kernel // 2)
    return torch.nn.Sequential(torch.nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups))


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2, 4]),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    shift=st.integers(0, 7),
)
def test_it_is_the_convolution_of_the_image_laid_out_three_times(
    kernel: int, stride: int, dilation: int, groups: int, shift: int
) -> None:
    plain, circular = layer(kernel, stride, dilation, groups), layer(kernel, stride, dilation, groups)
    assert make_circular(circular) == 1
    image = torch.randn(2, 4, 8, 32)
    width = 32 // stride
    expected = plain(image.repeat(1, 1, 1, 3))[..., width : 2 * width]
    torch.testing.assert_close(circular(image), expected)
    rolled = circular(image.roll(shift * stride, -1))
    torch.testing.assert_close(rolled, circular(image).roll(shift, -1))


@pytest.mark.parametrize("pool", [torch.nn.AvgPool2d(3, 2, 1), torch.nn.MaxPool2d(3, 2, 1)])
def test_pooling_likewise(pool: torch.nn.Module) -> None:
    network, image = torch.nn.Sequential(pool), torch.randn(1, 2, 8, 16)
    assert make_circular(network) == 1
    torch.testing.assert_close(network(image), pool(image.repeat(1, 1, 1, 3))[..., 8:16])
    with circular_padding_enabled(network, False):
        torch.testing.assert_close(network(image), pool(image))


def test_on_crops_it_is_the_plain_convolution() -> None:
    plain, cyclic, image = layer(), layer(), torch.randn(1, 4, 8, 16)
    make_circular(cyclic)
    with circular_padding_enabled(cyclic, False):
        torch.testing.assert_close(cyclic(image), plain(image))
    assert (cyclic(image) - plain(image)).abs().max() > 0.1


def test_weights_keep_their_names_and_stay_shared() -> None:
    network = torch.nn.Sequential(layer(), torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 3, padding=(1, 0)))
    before = {name: value.data_ptr() for name, value in network.state_dict().items()}
    assert make_circular(network) == 1, "what pads nothing in x stays"
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == before
    assert make_circular(network) == 0


@pytest.mark.parametrize("name", ["goodsam_demo", "goodsam_m", "cgnet"])
def test_the_students_that_are_shipped_become_circular(name: str) -> None:
    """Every layer that pads is replaced; CGNet, which has no attention or interpolation inside, is exact."""
    init_default_scope("mmseg")
    torch.manual_seed(0)
    config = Config.fromfile(CONFIGS / "students" / f"{name}.py").model
    model = MODELS.build({**config, "circular_padding": True}).eval()
    padded = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.padding[1]]
    assert padded
    assert all(isinstance(m, CircularConv2d) for m in padded)
    if name == "cgnet":
        image = torch.randn(1, 3, 32, 64)
        with torch.no_grad():
            torch.testing.assert_close(model(image.roll(32, -1)), model(image).roll(4, -1), rtol=1e-3, atol=1e-4)


def test_the_wrapper_of_mmcv_is_a_plain_convolution() -> None:
    torch.manual_seed(0)
    network, image = torch.nn.Sequential(wrappers.Conv2d(2, 3, 3, padding=1)), torch.randn(1, 2, 8, 16)
    expected = network(image.repeat(1, 1, 1, 3))[..., 16:32]
    assert make_circular(network) == 1
    torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (ConvWS2d(4, 4, 3, padding=1), "a ConvWS2d with kernel"),
        (ConvAWS2d(4, 4, 3, padding=1), "a ConvAWS2d with kernel"),
        (Conv2dAdaptivePadding(4, 4, 3, padding=1), "a Conv2dAdaptivePadding with kernel"),
        (torch.nn.Conv2d(4, 4, 3, padding="same"), "a Conv2d with kernel .* and padding 'same'"),
        (torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "of mode 'reflect'"),
    ],
)
def test_convolutions_of_another_kind_are_refused_by_name(odd: torch.nn.Module, named: str) -> None:
    network = torch.nn.ModuleDict({"stem": torch.nn.Conv2d(4, 4, 3, padding=1), "body": torch.nn.Sequential(odd)})
    with pytest.raises(UserError, match=rf"layer body\.0: found {'.*' if named.startswith('of') else ''}{named}"):
        make_circular(network)
    assert type(network["stem"]) is torch.nn.Conv2d, "nothing is replaced"
    assert network["body"][0] is odd


@pytest.mark.parametrize(
    "still",
    [
        ConvWS2d(4, 4, 1),
        Conv2dAdaptivePadding(4, 4, 1, stride=2),
        ConvWS2d(4, 4, (3, 1), padding=(1, 0)),
        torch.nn.Conv2d(4, 4, 3, padding="valid"),
        torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    ],
)
def test_what_pads_no_zeros_in_x_stays(still: torch.nn.Module) -> None:
    network = torch.nn.Sequential(still)
    assert make_circular(network) == 0
    assert network[0] is still
