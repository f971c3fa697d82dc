# GoodSAM-S: SegFormer MiT-B2, 25 M parameters [O].
_base_ = ['./goodsam_t.py']
model = dict(backbone=dict(num_layers=[3, 4, 6, 3]))
