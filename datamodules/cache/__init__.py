"""Rows that were encoded once, kept on disk and mapped into memory."""

from lightrail.datamodules.cache.building import build_once, cache_folder, digest_of, file_digest, is_finished
from lightrail.datamodules.cache.reading import TokenisedSplit, split_names
from lightrail.datamodules.cache.writing import CacheWriter, Cell

__all__ = [
    "CacheWriter",
    "Cell",
    "TokenisedSplit",
    "build_once",
    "cache_folder",
    "digest_of",
    "file_digest",
    "is_finished",
    "split_names",
]
