"""Texts with entities, in CoNLL files and records, and what was read from them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightrail.datamodules.batches.batching import Batch
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.spans.tag_schemes import ROLES, Scheme, Span
from tests.support.texts import ready

TRAIN = """\
江 B-PER
泽 I-PER
民 I-PER
在 O
北 B-LOC
京 I-LOC

李 B-PER
鹏 I-PER
陈 B-PER
方 I-PER
。 O
"""
WORDS = "EU B-ORG\nrejects O\nGerman B-MISC\n\nPeter B-PER\nBlackburn I-PER\n"


def paths(folder: Path, ending: str = ".conll", **files: str) -> dict[str, Any]:
    """Write train, validation and test; those not given are as train."""
    given: dict[str, Any] = {}
    for name, setting in (("train", "path"), ("validation", "validation_path"), ("test", "test_path")):
        file = folder / f"{name}{ending}"
        file.write_text(files.get(name, files["train"]), "utf-8")
        given[setting] = str(file)
    return given


def tagged(folder: Path, train: str = TRAIN, **settings: Any) -> EntityData:
    files = {name: settings.pop(name) for name in ("validation", "test") if name in settings}
    return ready(EntityData(**paths(folder, train=train, **files), **{"min_count": 1, **settings}))


def batch_of(data: EntityData, *numbers: int) -> Batch:
    return data.collate([{**data.rows("train").row(number), "id": number} for number in numbers or range(2)])


def marked(folder: Path, *records: dict[str, Any], **settings: Any) -> EntityData:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return ready(EntityData(**paths(folder, ".jsonl", train=lines), **{"min_count": 1, **settings}))


def entities_of(batch: Batch, labels: list[str]) -> list[list[tuple[str, str]]]:
    """The spelling and type of each text's entities, cut out of the original text."""
    found: list[list[tuple[str, str]]] = [[] for _ in batch["text"]]
    for text, first, end, kind in batch["spans"].tolist():
        offsets = batch["offsets"][text]
        found[text].append((batch["text"][text][offsets[first][0] : offsets[end - 1][1]], labels[kind]))
    return found


def write_tags(spans: Iterable[Span], num_tokens: int, scheme: Scheme) -> list[str]:
    """Mark entities that do not overlap; the inverse of `read_tags`, but that IO cannot part neighbours of one type."""
    letters = {role: letter for letter, role in ROLES[scheme].items()}
    tags = ["O"] * num_tokens
    last_end, last_type = -1, ""
    for start, end, kind in sorted(spans):
        inside = letters["inside"]
        begin = letters.get("begin", inside)
        if scheme == "IOB1" and (start, kind) != (last_end, last_type):
            begin = inside
        tags[start:end] = [f"{inside}-{kind}"] * (end - start)
        tags[start] = f"{begin}-{kind}"
        if "end" in letters:
            tags[end - 1] = f"{letters['end'] if end - start > 1 else letters['single']}-{kind}"
        last_end, last_type = end, kind
    return tags
