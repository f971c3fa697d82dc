# The demo world's smaller TA: SegFormer with a MiT-B0 of half the width, 0.8 M parameters, output stride 4, 19
# Cityscapes classes. Takes RGB. Weights: demo/weights/ta_segformer.safetensors.
_base_ = ['../_base_/segformer_mit_b0.py']
model = dict(
    backbone=dict(embed_dims=16, num_heads=[1, 2, 4, 8], drop_path_rate=0.05),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=64))
