# As pseudo_labels_19.py, with the 13 classes of later papers; fuse with --set fusion.label_space=densepass13.
_base_ = ['./pseudo_labels_19.py']
metainfo = dict(
    classes=(
        'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation',
        'terrain', 'sky', 'person', 'car'),
    palette=[
        [128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153], [153, 153, 153], [250, 170,
        30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60], [0, 0, 142]])
train_dataloader = dict(dataset=dict(metainfo=metainfo))
