"""Lines of text files and of standard input: decoded, in any encoding and with any line end."""

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO

from lightrail.datamodules.reading.files import GZIP_MAGIC, STANDARD_INPUT, existing_file, open_bytes
from lightrail.project.basics.errors import ConfigError, DataError, Refusal, first_line, shown

MOST_BYTES_OF_A_LINE = 2**30
"""Maximum size of a line, all of which is in memory: a small compressed file may hold one of any size."""


def read_lines(source: str, encoding: str = "utf-8", *, may_end_in_cr: bool = True) -> Iterator[str]:
    """Yield each line without its line end (LF or CRLF) and without a byte order mark.

    Only a line feed ends a line: `str.splitlines` would also split at U+2028, form feeds and the like, which occur
    inside texts from the web.

    Args:
        may_end_in_cr: in a file without any line feed CR ends a line, as in Excel's "CSV (Macintosh)".

    Raises:
        DataError: the file is missing, a folder, truncated, or holds bytes that are invalid in this encoding.
        ConfigError: there is no such encoding.
    """
    is_wide = not is_bytewise(encoding)
    number = 0
    with open_bytes(source) as stream:
        try:
            is_old_mac = may_end_in_cr and source != STANDARD_INPUT and _has_only_carriage_returns(source, stream)
            if is_wide or is_old_mac:
                lines = _decode_wide(stream, source, encoding, "\r" if is_old_mac else "\n")
            else:
                lines = _decode(stream, source, encoding)
            for line in lines:
                number += 1
                yield line
        except Refusal:
            raise
        except Exception as error:  # those of the disk and of decompression
            raise DataError(
                f"{source}: the file is truncated or damaged after line {number} ({first_line(error)}). "
                f"Copy or download it again."
            ) from error


def is_readable_from_the_middle(source: str, encoding: str, *, may_end_in_cr: bool) -> bool:
    """Whether lines can be read from any line feed on: not standard input, compressed files, and wide encodings."""
    if source == STANDARD_INPUT or not is_bytewise(encoding) or source.endswith(".gz"):
        return False
    with existing_file(source).open("rb") as stream:
        is_compressed = stream.peek(2).startswith(GZIP_MAGIC)
        return not is_compressed and not (may_end_in_cr and _has_only_carriage_returns(source, stream))


def _has_only_carriage_returns(source: str, stream: IO[bytes]) -> bool:
    start = stream.peek(1)  # type: ignore[attr-defined]
    if b"\r" not in start[:-1] or b"\n" in start:
        return False
    with open_bytes(source) as whole:
        return not any(b"\n" in piece for piece in iter(lambda: whole.read(2**20), b""))


def _no_text(where: str, line: str, encoding: str) -> DataError:
    raw = line.encode(encoding, "surrogatepass")
    likely = _wide_encoding(raw) if 4 * raw.count(0) >= len(raw) else ""  # else it is a stray one
    advice = f"It reads as {likely}: {_setting(likely, raw)}" if likely else _REMOVE_NUL
    return DataError(f"{where}: NUL byte at character {line.index(chr(0)) + 1}: this is not {encoding} text. {advice}")


_REMOVE_NUL = "Name a text file, or remove the byte (tr -d '\\000' < FILE > NEW)."


def _setting(likely: str, raw: bytes) -> str:
    is_table = "16" in likely and b"\t" in raw
    table = (
        ' (and data.reading.file_format=tsv, if this is a table such as Excel\'s "Unicode text")' if is_table else ""
    )
    return f"set data.reading.encoding={likely}{table}."


def is_bytewise(encoding: str) -> bool:
    """Whether a line feed is one byte in an encoding. Raises: ConfigError when there is no such encoding."""
    try:
        return "\n".encode(encoding) == b"\n"
    except (LookupError, ValueError) as error:  # ValueError: null characters, and codecs that are no encodings
        raise ConfigError(
            f"data.reading.encoding={shown(encoding)}: no such encoding. Common ones: utf-8, gb18030, big5, latin-1, "
            f"utf-16."
        ) from error


def _decode(stream: IO[bytes], source: str, encoding: str) -> Iterator[str]:
    for number, raw in enumerate(iter(lambda: stream.readline(MOST_BYTES_OF_A_LINE + 1), b""), 1):
        if len(raw) > MOST_BYTES_OF_A_LINE:
            raise _too_long(f"{source}:{number}")
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise undecodable(source, encoding, number, error) from error
        yield _without_ends(line, number, source, encoding)


def _decode_wide(stream: IO[bytes], source: str, encoding: str, end: str) -> Iterator[str]:
    """Decode UTF-16 and UTF-32, whose line feed is more than one byte, and lines that end in CR."""
    number = 0
    try:
        with io.TextIOWrapper(stream, encoding, newline=end) as text:
            for number, line in enumerate(iter(lambda: text.readline(MOST_BYTES_OF_A_LINE + 1), ""), 1):
                if len(line) > MOST_BYTES_OF_A_LINE:
                    raise _too_long(f"{source}:{number}")
                yield _without_ends(line, number, source, encoding)
    except UnicodeError as error:
        start = _start(source)
        likely = _wide_encoding(start) or _likely_encoding(start, encoding)
        raise DataError(
            f"{source}: not {encoding} after line {number}: {first_line(error)}. The file reads as {likely}: set "
            f"data.reading.encoding={likely}."
        ) from error


def _too_long(where: str) -> DataError:
    return DataError(
        f"{where}: a line of more than {MOST_BYTES_OF_A_LINE // 2**30} GiB, which does not fit into memory. Write one "
        f"row on each line."
    )


def _without_ends(line: str, number: int, source: str, encoding: str) -> str:
    if "\0" in line:
        raise _no_text(f"{source}:{number}", line, encoding)
    if number == 1:
        line = line.removeprefix("\ufeff")
    return line.removesuffix("\n").removesuffix("\r")


def _start(source: str) -> bytes:
    """The first bytes of a file; those of standard input are gone."""
    if source == STANDARD_INPUT:
        return b""
    with open_bytes(source) as stream:
        return stream.read(4096)


def undecodable(source: str, encoding: str, number: int, error: UnicodeDecodeError) -> DataError:
    """Return the error that names the invalid byte of a line, and the encoding that it likely has."""
    line = bytes(error.object)
    likely = _wide_encoding(_start(source) or line) or _likely_encoding(line, encoding)
    text = shown(line.decode(likely, "ignore").strip()[:40])
    return DataError(
        f"{source}:{number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not {encoding}. "
        f"The line reads as {likely} ({text}): {_setting(likely, line)}"
    )


def _likely_encoding(line: bytes, refused: str) -> str:
    """Guess the encoding of a line: Chinese encodings have high bytes in pairs, accented letters single ones."""
    is_plain = _decodes(line, "ascii")
    for encoding in ("utf-8", "gb18030"):
        is_likely = is_plain or _has_paired_high_bytes(line)
        if encoding != codecs.lookup(refused).name and _decodes(line, encoding) and is_likely:
            return encoding
    return "cp1252" if re.search(rb"[\x80-\x9f]", line) and _decodes(line, "cp1252") else "latin-1"


_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _wide_encoding(start: bytes) -> str:
    """Return the encoding in two or four bytes that bytes begin in; "" if none.

    Without a byte order mark the zero bytes of spaces, digits, commas and Latin letters tell.
    """
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    places = [start[first::4].count(0) for first in range(4)]
    most = len(start) // 4
    if not any(places):
        return ""
    if most and min(places[2], places[3]) >= most > places[0]:
        return "utf-32-le"
    if most and min(places[0], places[1]) >= most > places[3]:
        return "utf-32-be"
    encoding = "utf-16-le" if places[1] + places[3] > places[0] + places[2] else "utf-16-be"
    return encoding if _decodes(start[: len(start) // 2 * 2 - 2], encoding) and any(start[:2]) else ""


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _has_paired_high_bytes(line: bytes) -> bool:
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", line)]
    return 2 * sum(length for length in runs if length > 1) > sum(runs)
