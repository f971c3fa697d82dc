# GoodSAM-demo: a small SegFormer for the demo world at half size, quick on two CPU cores [ours].
_base_ = [
    '../_base_/segformer_mit_b0.py',
    '../_base_/schedule_demo.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='MKASegmentor',
    mka=dict(whole=1.0, ensemble=1.0, confident=1.0, boundary=0.1),
    backbone=dict(embed_dims=16, num_heads=[1, 2, 4, 8], drop_path_rate=0.0),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=96))
# crops of a quarter of the ring, at up to half as large again
train_pipeline = [
    dict(type='CyclicShift'),
    dict(type='RandomScaleCrop', crop_size=(200, 256), scale_range=(1.0, 1.5)),
    dict(type='MirrorPanorama', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackMKAInputs'),
]
