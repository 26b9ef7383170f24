"""Folders that hold an entry for each split, which would be read as one: train/ and val/, or train.txt and test.txt."""

import re
from collections.abc import Iterable
from pathlib import Path

from lightrail.project.basics.errors import DataError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "devel", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NAME = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_SETTINGS = {"train": "data.path", "validation": "data.validation_path", "test": "data.test_path"}


def split_entries(names: Iterable[str]) -> dict[str, str]:
    """Return the entries of a folder that are its splits, as patterns by split; {} if they are none.

    They have one name but for the word of the split and numbers, and one is for training.

    >>> split_entries(["wiki.train.raw", "wiki.valid.raw", "notes.txt"])
    {'train': 'wiki.train.raw', 'validation': 'wiki.valid.raw'}
    >>> split_entries(["train-0.parquet", "train-1.parquet", "test-0.parquet"])
    {'test': 'test-0.parquet', 'train': 'train*'}
    >>> split_entries(["train journey.txt", "test.txt"])
    {}
    """
    by_form: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        if found := _NAME.search(name):
            form = re.sub(r"\d+", "#", f"{name[: found.start()]}*{name[found.end() :]}").lower()
            own, split = by_form.setdefault(form, {}), SPLIT_NAMES[found[0].lower()]
            own[split] = f"{name[: found.end()]}*" if split in own else name
    return next((own for own in by_form.values() if "train" in own and len(own) > 1), {})


def refuse_splits(source: str, names: Iterable[str]) -> None:
    """Refuse a folder whose entries are splits. Raises: DataError naming the setting of each."""
    if splits := split_entries(names):
        settings = ", ".join(
            f"{setting}={Path(source) / splits[split]}" for split, setting in _SETTINGS.items() if split in splits
        )
        raise DataError(f"{source} holds an entry for each split, which must not be read as one. Set {settings}.")
