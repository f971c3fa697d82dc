# SegFormer MiT-B5 for the 19 Cityscapes classes, which appears in the paper's comparison. Takes RGB.
# Weights: any mmsegmentation checkpoint of segformer_mit-b5 on Cityscapes, as a local file.
_base_ = ['../_base_/segformer_mit_b0.py']
model = dict(
    backbone=dict(embed_dims=64, num_layers=[3, 6, 40, 3]),
    decode_head=dict(in_channels=[64, 128, 320, 512]))
