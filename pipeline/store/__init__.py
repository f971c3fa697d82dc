"""The cache: artefacts in Zarr v3, committed image by image. The format is described in docs/cache-format.md."""

from pipeline.store.artefact import FORMAT_VERSION, Artefact
from pipeline.store.attempt import Attempt
from pipeline.store.cache import Cache
from pipeline.store.image_group import ImageGroup
from pipeline.store.marker import Failure, Marker, Source

__all__ = ["FORMAT_VERSION", "Artefact", "Attempt", "Cache", "Failure", "ImageGroup", "Marker", "Source"]
