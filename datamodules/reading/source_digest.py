"""What a source holds, as a digest: the same bytes under another name are the same data, if read in the same way."""

from lightrail.datamodules.cache import digest_of, file_digest
from lightrail.datamodules.reading.embedded import embedded_file, embedded_set
from lightrail.datamodules.reading.hub import PREFIX, load_hub
from lightrail.datamodules.reading.lines import existing_file
from lightrail.datamodules.reading.rows import FileFormat
from lightrail.datamodules.reading.sources import EMBEDDED_PREFIX, format_of


def source_digest(source: str, file_format: FileFormat = "auto") -> str:
    """Digest the content and the format of a file, or the content of an embedded set or a Hugging Face data set.

    Raises: DataError when there is no such source, or its format is not known.
    """
    if source.startswith(EMBEDDED_PREFIX):
        return digest_of([source, [file_digest(embedded_file(path)) for path in embedded_set(source).files]])
    if source.startswith(PREFIX):
        return digest_of([source, [file_digest(file["filename"]) for file in load_hub(source).cache_files]])
    path = existing_file(source)
    return digest_of([file_digest(path), format_of(source) if file_format == "auto" else file_format])
