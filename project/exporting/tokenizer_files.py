"""The Hugging Face tokenizers of a model's data, as files inside of an export."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading, user_path
from lightrail.project.basics.tokens.learning import load_reader

log = logging.getLogger(__name__)

SETTINGS = ("tokenizer", "target_tokenizer")
"""Settings of data that name a tokenizer."""
LEARNED = ("characters", "words", "subwords", "bytes", "units")
"""Tokenizers that need no files: the facts of the data hold what was learned."""


def write_tokenizers(data: Mapping[str, Any], facts: Mapping[str, Any], folder: Path) -> None:
    """Write each Hugging Face tokenizer that the data names into a folder of its setting's name.

    Args:
        data: class path and arguments of the data, as they are stored.
        facts: those of the data that the task holds.

    Raises: ConfigError when a tokenizer is not there any more, or would be read as another one.
    """
    for setting in SETTINGS:
        name = data["init_args"].get(setting)
        if not isinstance(name, str) or name in LEARNED:
            continue
        is_ours = data["class_path"].startswith("lightrail.") or "." not in data["class_path"]
        if not is_ours and not (user_path(name) / "tokenizer.json").is_file():
            continue  # data of the user's own, whose tokenizers have names of their own
        try:
            tokenizer = load_reader(name)
        except ConfigError as error:
            if not _holds_tokenizer(facts):
                raise
            log.warning("data.%s is not exported, which only further tests need: %s", setting, error)
            continue
        tokenizer.save_pretrained(folder / setting)
        if _content(load_reader(str(folder / setting))) != _content(tokenizer):
            raise ConfigError(
                f"data.{setting}: {shown(name, 200)} is read as another tokenizer when transformers has saved it. "
                f"Nothing was written. Report this with the tokenizer's name."
            )


def _content(tokenizer: Any) -> Any:
    with reading("data.tokenizer", "Choose another tokenizer."):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return tokenizer.get_vocab() if backend is None else backend.to_str()


def _holds_tokenizer(facts: Mapping[str, Any]) -> bool:
    """Whether the facts are enough to encode texts."""
    return "tokenizer" in facts or any(_holds_tokenizer(own) for own in facts.values() if isinstance(own, Mapping))
