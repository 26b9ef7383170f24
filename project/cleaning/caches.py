"""What the folder of caches keeps, and removal of what is damaged, half-built or has not been used for long."""

import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree
from time import time as now

from lightrail.datamodules.cache.building import ABOUT, cache_folder, is_finished, locked_now, read_about
from lightrail.datamodules.cache.checksums import lock_file
from lightrail.datamodules.cache.splits import META
from lightrail.project.basics.durable import UNFINISHED
from lightrail.project.basics.errors import Refusal
from lightrail.project.cleaning.runs import Kept, is_real, num_bytes

UNUSED_DAYS = 30
SHORT_NAME = 8
SOON = {
    ".damaged": "a damaged cache that was set aside",
    UNFINISHED: "a cache that was half-built by a process that died",
}
NAME = re.compile(rf"[0-9a-f]{{32}}({'|'.join(map(re.escape, (*SOON, '.shards')))})?")
ENDINGS = {**SOON, ".shards": "encoded parts of a corpus, from which an interrupted cache is continued"}
"""Endings of the names of folders beside the caches; those in `SOON` are of no use at any age."""


def kept_of_caches(digests: Collection[str | None]) -> Iterator[Kept]:
    """Yield what the folder of caches keeps.

    Args:
        digests: digests of the training data of the store's runs. A cache of other data may be another project's: it
            is only removed when nothing has used it for 30 days. It is built again when it is needed.
    """
    root = cache_folder()
    folders = (path for path in root.glob("*") if NAME.fullmatch(path.name) and path.is_dir() and is_real(path, root))
    for folder in sorted(folders):
        ending, digest = folder.suffix, _digest_of(folder)
        is_removed = (ending in ENDINGS or digest is not None) and digest not in digests and _is_free(folder)
        if ending in SOON:
            purpose = SOON[ending]
        else:
            purpose = ENDINGS.get(ending, f"encoded data of {'runs' if digest in digests else 'no run'} in this store")
            is_removed = is_removed and _is_old(folder)
        yield Kept(
            place=f"cache {folder.name[:SHORT_NAME]}{ending}",
            purpose=purpose if not is_removed or ending in SOON else f"{purpose}, not used for {UNUSED_DAYS} days",
            num_bytes=num_bytes(folder),
            remove=partial(_remove, folder) if is_removed else None,
        )


def _digest_of(folder: Path) -> str | None:
    """Return the digest of the training data that a cache was encoded from; None for no whole cache."""
    try:
        is_cache = not folder.suffix and is_finished(folder) and (folder / ABOUT).is_file()
        return str(read_about(folder)["digests"].get("train")) if is_cache else None
    except Refusal:
        return None


def _is_free(folder: Path) -> bool:
    if not lock_file(folder.with_suffix("")).exists():
        return True
    with locked_now(folder.with_suffix("")) as is_ours:
        return is_ours


def _is_old(folder: Path) -> bool:
    """Whether nothing has used a cache for 30 days: each use sets the time of its lock file."""
    paths = (lock_file(folder.with_suffix("")), folder / META, folder)
    return max(path.stat().st_mtime for path in paths if path.exists()) < now() - UNUSED_DAYS * 24 * 3600


def _remove(folder: Path) -> bool:
    """Remove a cache, unless a process is building it; one that is half removed is built again."""
    with locked_now(folder.with_suffix("")) as is_ours:
        if is_ours:
            (folder / META).unlink(missing_ok=True)
            rmtree(folder)
        return is_ours
