# Common sections of all trainings. The train stage sets data, classes and work directory.
custom_imports = dict(imports=['stages.train.register'])
default_scope = 'mmseg'
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Two checkpoints are kept: a run that is killed while it writes one resumes from the other.
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
log_processor = dict(by_epoch=False, window_size=50)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
# Full resolution: 400 x 2048 needs no padding.
train_pipeline = [
    dict(type='CyclicShift'),
    dict(type='MirrorPanorama', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackMKAInputs'),
]
