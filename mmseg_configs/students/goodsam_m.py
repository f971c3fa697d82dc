# GoodSAM-M: SegFormer MiT-B0, 3.7 M parameters (size [P], backbone [O]). Initial weights are random unless the settings
# name a file: train.pretrained_backbone takes mmsegmentation's converted MiT weights, or a SegFormer trained on photos.
_base_ = [
    '../_base_/segformer_mit_b0.py',
    '../_base_/schedule_gpu.py',
    '../_base_/default_runtime.py',
]
# The weights of the loss terms; 0 switches a term off, a dict sets temperature or hard targets. See MKATerms in
# stages/train/segmentor.py.
model = dict(type='MKASegmentor', mka=dict(whole=1.0, ensemble=1.0, confident=1.0, boundary=0.1))
