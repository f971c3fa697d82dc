"""Scores of pseudo-labels and students where there are labels: mIoU, boundaries, calibration, weight map."""
