# Several GPUs with torchrun, for four GPUs of two panoramas each: four times the batch of one GPU, therefore twice the
# learning rate (the square root, for AdamW) and half the steps [O].
_base_ = ['./schedule_gpu.py']
train_cfg = dict(max_iters=10000)
optim_wrapper = dict(optimizer=dict(lr=1.2e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=500, end=10000),
]
