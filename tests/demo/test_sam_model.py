"""Nano SAM's parts against segment_anything's own."""

from __future__ import annotations

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam

from demo.sam.decode import CROP, MAX_SIDE, crop_embeddings, decode_masks, draw_crop, embed_prompts
from demo.sam.model import DIM, GRID, IMAGE_SIZE, STRIDE, build

MAX_BYTES = 8 * 2**20


def test_the_model_is_segment_anythings_sam_and_small() -> None:
    sam = build()
    assert type(sam) is Sam
    assert type(sam.prompt_encoder) is PromptEncoder
    assert type(sam.mask_decoder) is MaskDecoder
    assert sum(value.numel() * 2 for value in sam.state_dict().values()) < MAX_BYTES
    embedding = sam.image_encoder(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert embedding.shape == (1, DIM, GRID, GRID)


def test_points_and_boxes_give_one_or_three_masks_of_the_image_size() -> None:
    predictor = SamPredictor(build().eval())
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8))
    masks, iou, _ = predictor.predict(point_coords=np.array([[9.0, 20.0]]), point_labels=np.array([1]))
    assert masks.shape == (3, 50, 64)
    assert iou.shape == (3,)
    masks, iou, _ = predictor.predict(box=np.array([3.0, 5.0, 30.0, 40.0]), multimask_output=False)
    assert masks.shape == (1, 50, 64)


def test_a_point_attends_to_its_own_location_before_any_training() -> None:
    torch.manual_seed(0)
    sam = build()
    points = torch.tensor([[20.0, 30.0], [130.0, 77.0], [240.0, 190.0]])
    tokens = embed_prompts(sam, points, torch.zeros(0, 4))[:, 0]
    attention = sam.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    encoding = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
    cells = (attention.q_proj(tokens) @ attention.k_proj(encoding).T).argmax(1)
    expected = points.div(STRIDE).floor()
    torch.testing.assert_close(torch.stack([cells % GRID, cells // GRID], 1).float(), expected)


def test_decoding_on_the_whole_grid_equals_segment_anythings_decoder() -> None:
    torch.manual_seed(0)
    sam = build().eval()
    embedding = torch.randn(1, DIM, GRID, GRID)
    points = torch.tensor([[20.0, 30.0], [130.5, 77.0]])
    boxes = torch.tensor([[5.0, 6.0, 90.0, 80.0]])
    tokens = embed_prompts(sam, points, boxes)
    encoding = sam.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        masks, iou = decode_masks(sam, embedding.expand(3, -1, -1, -1), encoding.expand(3, -1, -1, -1), tokens)
        for k in range(3):
            points_k = (points[k : k + 1, None], torch.ones(1, 1)) if k < 2 else None
            sparse, dense = sam.prompt_encoder(points_k, None if k < 2 else boxes, None)
            expected, expected_iou = sam.mask_decoder.predict_masks(embedding, encoding, sparse, dense)
            torch.testing.assert_close(masks[k : k + 1], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(iou[k : k + 1], expected_iou, rtol=1e-4, atol=1e-5)


def test_crops_are_slices() -> None:
    embedding = torch.randn(2, 3, GRID, GRID)
    crops = crop_embeddings(embedding, torch.tensor([1, 0]), torch.tensor([4, 20]), torch.tensor([0, 7]))
    torch.testing.assert_close(crops[0], embedding[1, :, 4 : 4 + CROP, :CROP])
    torch.testing.assert_close(crops[1], embedding[0, :, 20 : 20 + CROP, 7 : 7 + CROP])


def test_a_drawn_crop_contains_its_segment_and_is_inside_the_image() -> None:
    rng = np.random.default_rng(0)
    cells = 25, 32
    for _ in range(300):
        size = rng.integers(1, MAX_SIDE + 1, 2)
        low = rng.integers(0, np.array(cells) * STRIDE - size + 1)
        high = low + size - 1
        corner = np.array(draw_crop(low, high, cells, rng))
        assert (corner >= 0).all()
        assert (corner + CROP <= cells).all()
        assert (corner * STRIDE <= low).all()
        assert ((corner + CROP) * STRIDE > high).all()
