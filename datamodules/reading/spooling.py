"""Examples that wait on disk, each with its split, until what their encoding needs has been learned."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import IO

from lightrail.datamodules.reading import Row


def write_spool(
    assigned: Iterator[tuple[str, Row]], names: Sequence[str], spool: IO[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Write each example with its split; give each split's number of examples and the digest of its content."""
    counts = dict.fromkeys(names, 0)
    contents = {name: hashlib.blake2b(digest_size=16) for name in names}
    for name, example in assigned:
        values = json.dumps(example.values, ensure_ascii=False)
        counts[name] += 1
        contents[name].update(values.encode("utf-8", "surrogatepass"))
        spool.write(f"{name}\t{values}\t{example.line}\t{example.file}\n")
    return counts, {name: content.hexdigest() for name, content in contents.items()}


def read_spool(spool: IO[str], split: str) -> Iterator[Row]:
    """Give the examples of one split in the order in which they were written."""
    spool.seek(0)
    for entry in spool:
        name, values, line, file = entry.rstrip("\n").split("\t", 3)  # JSON writes a tab inside a text as \\t
        if name == split:
            yield Row(json.loads(values), file, int(line))
