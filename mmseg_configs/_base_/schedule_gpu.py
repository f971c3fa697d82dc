# AdamW and polynomial decay as in SegFormer's training; the number of steps is [O].
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000)
optim_wrapper = dict(
    type='OptimWrapper',  # on CUDA replaced by AmpOptimWrapper
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(
            pos_block=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
            decode_head=dict(lr_mult=10.0),
        )))
# `begin` and `end` are scaled with train.iterations.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1000, end=20000),
]
