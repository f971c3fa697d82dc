"""One panorama as a picture: image, masks, TA, ensemble, weight map, student."""
