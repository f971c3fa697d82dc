"""Stage three: trains the compact student on the cached ensemble, with mmsegmentation and the MKA losses."""
