# GoodSAM-demo: a small convolutional student for the demo world at half size, quick on two CPU cores [ours]. ResNet-18
# at a quarter of its width with a feature pyramid, 0.8 M parameters: a quarter of the TA `demo_resnet_fpn`.
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
# a model of this size that learned from photos: begin yours with one from a model zoo (train.load_from)
load_from = '{{ fileDirname }}/../../demo/weights/start_goodsam_demo.safetensors'
custom_hooks = [dict(type='ChannelsLastHook')]
# crops of a quarter of the ring, anywhere on it, at up to half as large again
train_pipeline = [
    dict(type='RandomScaleCrop', crop_size=(200, 256), scale_range=(1.0, 1.5)),
    dict(type='MirrorPanorama', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackMKAInputs'),
]
