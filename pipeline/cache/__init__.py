"""The cache: artefacts in Zarr v3, committed image by image. The format is described in docs/cache-format.md."""

from pipeline.cache.artefact import Artefact
from pipeline.cache.cache import Cache
from pipeline.cache.image_group import ImageGroup, ImageWriter
from pipeline.cache.marker import Failure, Marker, Source

__all__ = ["Artefact", "Cache", "Failure", "ImageGroup", "ImageWriter", "Marker", "Source"]
