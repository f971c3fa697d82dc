# GoodSAM-T: SegFormer MiT-B1, 14 M parameters [O].
_base_ = ['./goodsam_m.py']
model = dict(backbone=dict(embed_dims=64), decode_head=dict(in_channels=[64, 128, 320, 512]))
