"""What a source holds, as a digest: the same bytes under another name are the same data."""

from datamodules.cache import digest_of, file_digest
from datamodules.embedded import embedded_file, embedded_set
from datamodules.reading.hub import PREFIX, load_hub
from datamodules.reading.lines import existing_file
from datamodules.reading.sources import EMBEDDED_PREFIX


def source_digest(source: str) -> str:
    """Digest the content of a file, an embedded set or a Hugging Face data set.

    Raises: DataError when there is no such source.
    """
    if source.startswith(EMBEDDED_PREFIX):
        return digest_of([source, [file_digest(embedded_file(path)) for path in embedded_set(source).files]])
    if source.startswith(PREFIX):
        return digest_of([source, [file_digest(file["filename"]) for file in load_hub(source).cache_files]])
    existing_file(source)
    return file_digest(source)
