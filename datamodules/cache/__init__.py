"""The cache of encoded rows: written once, kept on disk and mapped into memory."""

from lightrail.datamodules.cache.building import build_once, cache_folder, digest_of
from lightrail.datamodules.cache.checksums import file_digest
from lightrail.datamodules.cache.splits import CacheWriter, TokenisedSplit

__all__ = ["CacheWriter", "TokenisedSplit", "build_once", "cache_folder", "digest_of", "file_digest"]
