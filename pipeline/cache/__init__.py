"""The cache: artefacts in Zarr v3, committed image by image. The format is described in docs/cache-format.md."""

from pipeline.cache.artefact import FORMAT_VERSION, Artefact
from pipeline.cache.attempt import Attempt
from pipeline.cache.cache import Cache
from pipeline.cache.image_group import ImageGroup
from pipeline.cache.marker import Failure, Marker, Source

__all__ = ["FORMAT_VERSION", "Artefact", "Attempt", "Cache", "Failure", "ImageGroup", "Marker", "Source"]
