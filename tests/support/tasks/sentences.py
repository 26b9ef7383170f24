"""A tiny sentence encoder, and pairs for it."""

import json
from pathlib import Path

PAIRS = {
    "train": [
        ("a cat", "a small cat"),
        ("the dog runs", "a dog is running fast"),
        ("it rains", "rain falls today"),
        ("two boys play", "boys are playing in a park"),
        ("he eats", "he is eating some bread"),
        ("red car", "the car is red"),
        ("she sings a song", "singing"),
        ("a train stops here", "the train has stopped"),
    ],
    "validation": [
        ("the cat", "a cat"),
        ("a dog runs", "the dog is running"),
        ("rain today", "it rains"),
        ("boys play", "two boys are playing"),
        ("a red car", "red"),
    ],
    "test": [
        ("a small cat", "the cat is small"),
        ("dog", "a dog"),
        ("rain", "it is raining"),
        ("boys", "two boys in a park"),
        ("bread", "he eats bread"),
        ("the car", "a car is here"),
        ("a song", "she is singing a song"),
        ("train", "the train"),
        ("a park", "in the park"),
        ("today", "it is today"),
        ("fast", "running fast"),
    ],
}


def write_pairs(folder: Path, **more: list[str]) -> list[str]:
    """Write the pairs of each split, with a score for each, and return the arguments that name them.

    Args:
        more: a column of further texts, one for each pair in turn.
    """
    for split, pairs in PAIRS.items():
        lines = [
            {
                "text": text,
                "pair": pair,
                "score": number % 5,
                **{name: own[number % len(own)] for name, own in more.items()},
            }
            for number, (text, pair) in enumerate(pairs)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [
        "--model=SentenceEncoder",
        "--data=SentenceData",
        f"--data.path={folder}/train.jsonl",
        f"--data.validation_path={folder}/validation.jsonl",
        f"--data.test_path={folder}/test.jsonl",
        "--data.min_count=1",
    ]


def settings(folder: Path) -> list[str]:
    sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
    return [*write_pairs(folder), "--model.encoder=TransformerConfig", *(f"--model.encoder.{size}" for size in sizes)]
