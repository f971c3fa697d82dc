# GoodSAM-demo: a small convolutional student for the demo world at half size, for two CPU cores [O]. ResNet-18 at a
# quarter of its width with a feature pyramid, 0.8 M parameters: a quarter of the TA `demo_resnet_fpn`. Its initial
# weights are named by the settings (`train.load_from` in configs/demo.yaml).
_base_ = [
    '../teachers/demo_resnet_fpn.py',
    '../_base_/schedule_demo.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='MKASegmentor',
    mka=dict(whole=1.0, ensemble=1.0, confident=1.0, boundary=0.1),
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    decode_head=dict(in_channels=[32, 32, 32, 32], channels=32))
custom_hooks = [dict(type='ChannelsLastHook')]
# Crops of a quarter of the panorama, which may cross the seam, at scales from 1 to 1.5.
train_pipeline = [
    dict(type='RandomScaleCrop', crop_size=(200, 256), scale_range=(1.0, 1.5)),
    dict(type='MirrorPanorama', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackMKAInputs'),
]
