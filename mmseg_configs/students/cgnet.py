# CGNet M3N21, 0.5 M parameters: a purely convolutional student, for small devices [O].
_base_ = [
    '../teachers/cgnet_cityscapes.py',
    '../_base_/schedule_gpu.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='MKASegmentor',
    mka=dict(whole=1.0, ensemble=1.0, confident=1.0, boundary=0.1),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
# Higher than the rate for a pretrained backbone, because the initial weights are random.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
