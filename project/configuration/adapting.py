"""The choice among the forms of a shipped experiment, by the texts that it is given."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.reading import ReadingNotes
from lightrail.datamodules.reading.files import STANDARD_INPUT
from lightrail.project.basics.catalogue import experiment_files, form_for_words
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.scripts import Writing, writing_of
from lightrail.project.configuration.sources import Draft

MOST_TEXTS = 1000
"""Number of texts, the first of `data.path`, by which a form is chosen."""


def is_for_other_data(file: Path, draft: Draft) -> bool:
    """Whether a file of a configuration is an experiment of several forms that is given texts of the user's own.

    Args:
        draft: the settings of all files and arguments.
    """
    if file not in experiment_files().values() or form_for_words(file) is None:
        return False
    return draft.is_from("data.class_path", file) and not draft.is_from("data.path", file)


def writing(data: object) -> Writing:
    """Count what the first texts of a datamodule are written in; nothing where it cannot read them."""
    if not isinstance(data, DataModule) or data.path == STANDARD_INPUT:
        return writing_of(())
    rows = data.read(data.path, "predict", ReadingNotes())  # which needs no labels
    texts = (str(example.values["text"]) for row in rows for example in data.examples(row, "predict"))
    try:
        return writing_of(islice(texts, MOST_TEXTS))
    except (ConfigError, DataError):  # which reading all of it raises, unless other settings are found wrong before
        return writing_of(())


def advice(values: Mapping[str, Any], data: DataModule) -> str:
    """Return a line on a tokenizer that does not fit the texts; "" when it does."""
    if values["data"]["init_args"].get("tokenizer") != "characters" or not (found := writing(data)).is_of_words:
        return ""
    return f"data.tokenizer is characters, and there are {found}: --data.tokenizer words is likely to be better"
