"""The Hugging Face tokenizers of a model's data, as files inside of an export."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading, user_path
from lightrail.project.basics.tokens.learning import load_reader
from lightrail.project.basics.tokens.tokenizing import Tokenizer, load_tokenizer
from lightrail.project.basics.tokens.truncating import lay_out

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


PROBES = (
    "The 3 cats: «ça va?» 你好，世界。🙂\n\tEnd",
    "It isn't New York, is it? İstanbul ½ _x_\u00a0[SEP] e\u0301",
    "a long text, with more words than it may have. 很长的文本。" * 100,
)
"""Texts that a tokenizer of another library must encode as ours does."""


def write_for_transformers(data: Mapping[str, Any], folder: Path) -> int:
    """Save the Hugging Face tokenizer that the data names, for `transformers.AutoTokenizer`, with the data's length.

    Returns: one more than its largest token id.

    Raises: ConfigError when it cuts texts otherwise than transformers can, or encodes one otherwise.
    """
    from transformers import AutoTokenizer

    settings = data["init_args"]
    side = _side(settings, "hf")
    own = load_reader(settings["tokenizer"])
    own.model_max_length = settings["max_length"]
    own.truncation_side = side or "right"
    own.save_pretrained(folder)
    read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _check_probes(settings, [], side, lambda text: read(text, truncation=side is not None)["input_ids"])
    size: int = max(read.get_vocab().values()) + 1
    return size


def tokenizer_of_data(data: Mapping[str, Any], facts: Mapping[str, Any], export_format: str) -> Any:
    """Return the tokenizer of data as one of the library tokenizers, that cuts texts as the data does.

    Raises: ConfigError when no such tokenizer can, or encodes a text otherwise.
    """
    settings, vocabulary = data["init_args"], facts.get("vocabulary") or []
    side = _side(settings, export_format)
    backend = _own_tokenizer(settings).to_backend(vocabulary)
    if side is not None:
        backend.enable_truncation(settings["max_length"], direction=side)
    _check_probes(settings, vocabulary, side, lambda text: backend.encode(text).ids)
    return backend


def has_segments(data: Mapping[str, Any]) -> bool:
    """Whether the data's tokenizer tells the two texts of a pair apart."""
    return "tokenizer" in data["init_args"] and _own_tokenizer(data["init_args"]).has_segments


def _side(settings: Mapping[str, Any], export_format: str) -> str | None:
    """Return the side on which long texts are cut; None: on neither. Raises: ConfigError for another truncation."""
    truncation = settings.get("truncation")
    if truncation not in (None, "head", "tail"):
        raise ConfigError(
            f"--format {export_format}: data.truncation is {shown(truncation)}, and other libraries cut a long text at "
            "one end. Use --format safetensors, or train with --data.truncation=head."
        )
    return {None: None, "head": "right", "tail": "left"}[truncation]


def _own_tokenizer(settings: Mapping[str, Any]) -> Tokenizer:
    name = settings["units"] if settings["tokenizer"] == "units" else settings["tokenizer"]
    return load_tokenizer(name, lower_case=settings.get("lower_case", False))


def _check_probes(
    settings: Mapping[str, Any], vocabulary: list[str], side: str | None, encode: Callable[[str], list[int]]
) -> None:
    own = _own_tokenizer(settings)
    frame = own.frame(is_pair=False)
    for text in PROBES:
        ids = own.numbers(text, vocabulary)
        length = settings["max_length"] if side is not None else len(ids) + frame.size(1)
        expected = lay_out([ids], frame, length, "tail" if side == "left" else "head").input_ids.tolist()
        if encode(text) != expected:
            raise ConfigError(
                f"data.tokenizer: {shown(settings['tokenizer'], 200)} encodes {shown(text)} otherwise when another "
                "library reads it. Nothing was written. Use --format safetensors, and report this with its name."
            )
