"""mIoU, per-class IoU and pixel accuracy of pseudo-labels and students."""
