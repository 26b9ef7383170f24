"""A tiny entity tagger, and texts for it."""

import json
from pathlib import Path

NAMES = {"anna": "PER", "li wei": "PER", "paris": "LOC", "new york": "LOC", "acme": "ORG", "bank of paris": "ORG"}
TEXTS = {
    "train": [
        "anna",
        "paris is big",
        "li wei lives in new york",
        "acme of paris bought bank of paris and acme",
        "no name here",
        "anna li wei",
        "new york , new york",
        "bank of paris",
    ],
    "validation": ["anna in paris", "acme is big", "li wei and anna", "bank of new york", "here"],
    "test": [
        "paris",
        "li wei bought acme",
        "anna and li wei in new york",
        "bank of paris is here",
        "big name",
        "acme acme",
        "new paris",
        "no",
        "lives in paris , new york and paris",
        "anna of acme",
        "wei",
    ],
}


def entities(text: str, *, is_nested: bool) -> list[dict[str, object]]:
    """Names from left to right, the longest first; with nesting also those inside another."""
    found: list[dict[str, object]] = []
    taken: set[int] = set()
    for name in sorted(NAMES, key=len, reverse=True):
        start = text.find(name)
        while start >= 0:
            places = set(range(start, start + len(name)))
            if is_nested or not places & taken:
                taken |= places
                found.append({"start": start, "end": start + len(name), "type": NAMES[name]})
            start = text.find(name, start + len(name))
    return found


def write_entities(folder: Path, *, is_nested: bool = False) -> list[str]:
    for split, texts in TEXTS.items():
        rows = [{"text": text, "entities": entities(text, is_nested=is_nested)} for text in texts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "--model=EntityTagger",
        "--data=EntityData",
        f"--data.path={folder}/train.jsonl",
        f"--data.validation_path={folder}/validation.jsonl",
        f"--data.test_path={folder}/test.jsonl",
        "--data.units=words",
        f"--data.has_nested={str(is_nested).lower()}",
    ]


SIZES = ["width=48", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
TINY = ["--data.min_count=1", "--model.dropout=0.1", "--model.encoder=LstmConfig"]
TINY += [f"--model.encoder.{size}" for size in SIZES]


def settings(folder: Path) -> list[str]:
    return [*write_entities(folder), *TINY, "--model.token_dropout=0.1"]
