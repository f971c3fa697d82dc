# Pseudo-labels that the command `labels` has written, 19 Cityscapes classes, as an ordinary mmsegmentation data set for
# mmsegmentation's own tools. Environment variables:
# LABELS: the folder of the labels; its images.txt lists the labelled images.
# IMAGES: the root of the data manifest; if the manifest crops or resizes, the folder `images` in LABELS (PNGs).
# IMG_SUFFIX: ending of the image files, default '.png'; '_leftImg8bit.png' for files named as in Cityscapes.
# SEG_SUFFIX: ending of the label files, default '_labelTrainIds.png'; with the former '_gtFine_labelTrainIds.png'.
metainfo = dict(
    classes=(
        'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation',
        'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'),
    palette=[
        [128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153], [153, 153, 153], [250, 170,
        30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60], [255, 0, 0], [0, 0, 142],
        [0, 0, 70], [0, 60, 100], [0, 80, 100], [0, 0, 230], [119, 11, 32]])
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        ann_file='{{$LABELS:outputs/labels}}/images.txt',
        data_prefix=dict(img_path='{{$IMAGES:demo_world}}', seg_map_path='{{$LABELS:outputs/labels}}'),
        img_suffix='{{$IMG_SUFFIX:.png}}',
        seg_map_suffix='{{$SEG_SUFFIX:_labelTrainIds.png}}',
        reduce_zero_label=False,
        metainfo=metainfo,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ]))
