"""Pure array code: views, windows, projections, mask sets, boundaries, up-sampling."""
