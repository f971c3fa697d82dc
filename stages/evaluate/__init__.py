"""Scores of pseudo-labels and students on labelled images: mIoU, boundaries, calibration, weight map."""
