"""A tiny text classifier, and texts for it."""

import json
from pathlib import Path

TEXTS = {
    "train": [
        "good",
        "bad",
        "so good it is",
        "it is so bad , really bad",
        "fine film",
        "dull",
        "a fine day",
        "dull day",
    ],
    "validation": ["good film", "bad film", "it is fine", "really dull", "so so good"],
    "test": [
        "good day",
        "bad day",
        "fine",
        "it is so dull",
        "really good film",
        "bad , dull",
        "a good",
        "day",
        "really",
        "it",
        "so",
    ],
}
WITHOUT_DROPOUT = ["--model.encoder.dropout=0", "--model.encoder.ngram_dropout=0", "--model.dropout=0"]
POSITIVE = {"good", "fine", "film", "day"}


def write_texts(folder: Path) -> list[str]:
    for split, texts in TEXTS.items():
        rows = [{"text": text, "label": "+" if POSITIVE & set(text.split()) else "-"} for text in texts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "--model=TextClassifier",
        "--data=TextClassificationData",
        f"--data.path={folder}/train.jsonl",
        f"--data.validation_path={folder}/validation.jsonl",
        f"--data.test_path={folder}/test.jsonl",
    ]


def settings(folder: Path) -> list[str]:
    sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
    network = [f"--model.encoder.{size}" for size in sizes]
    return [*write_texts(folder), *network, "--data.tokenizer=words", "--data.min_count=1"]
