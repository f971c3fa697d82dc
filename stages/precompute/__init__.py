"""Stage one: SAM masks, panorama masks and boundaries, and TA logits of every panorama, into the cache."""
