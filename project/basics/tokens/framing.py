"""The tokens around a text that is read or written by an encoder-decoder."""

from typing import Any

import numpy as np

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.learning import load_reader, needs_texts
from lightrail.project.basics.tokens.numbering import Ids, LanguageTokenizer

Frame = list[list[int]]
"""Token ids before a text, and after it; a third list has the token with which a decoder begins, where the tokenizer
states it."""


def frame_of(tokenizer: LanguageTokenizer, name: str, language: str | None, *, is_target: bool = False) -> Frame:
    """Return the tokens around a text of one side.

    Args:
        name: of the tokenizer, as in the settings.
        language: code of the text's language, for a multilingual tokenizer.

    Raises: ConfigError when a language is given and the tokenizer has none, or not this one.
    """
    setting = "target_language" if is_target else "source_language"
    if needs_texts(name) or name == "bytes":
        if language is not None:
            raise ConfigError(f"data.{setting}={shown(language)} is for multilingual tokenizers. Leave it out.")
        return [[], [tokenizer.end_id]]
    pretrained = load_reader(name)
    _set_language(pretrained, language, setting, "tgt_lang" if is_target else "src_lang")
    with reading(f"data.tokenizer: {shown(name, 200)} encodes no text", "Choose another tokenizer."):
        given: dict[str, Any] = {"text_target": "a"} if is_target else {"text": "a"}
        whole: list[int] = pretrained(**given)["input_ids"]
        plain: list[int] = pretrained(**given, add_special_tokens=False)["input_ids"]
        start = next(place for place in range(len(whole)) if whole[place : place + len(plain)] == plain)
    before, after = whole[:start], whole[start + len(plain) :]
    if tokenizer.end_id not in after:
        after = [*after, tokenizer.end_id]
    place = after.index(tokenizer.end_id) + 1
    # mBART: the code of the language follows the end, and the decoder begins with it.
    return [before, after[:place], after[place:]] if is_target else [before, after]


def framed(ids: Ids, frame: Frame, max_length: int, *, is_cut_whole: bool = True) -> tuple[Ids, int]:
    """Put the tokens of a frame around a text, which is cut to `max_length` with them.

    Args:
        ids: of the text, [T].
        is_cut_whole: give a text that is cut the tokens after it too; without, it has no end.

    Returns: the ids, and how many there would be without `max_length`.
    """
    before, after = frame[:2]
    num_all = len(before) + len(ids) + len(after)
    end = [] if num_all > max_length and not is_cut_whole else after
    kept = ids[: max(1, max_length - len(before) - len(end))]
    return np.array([*before, *kept, *end], np.int32), num_all


def _set_language(tokenizer: Any, language: str | None, setting: str, attribute: str) -> None:
    if language is None:
        return
    if not hasattr(tokenizer, attribute):
        raise ConfigError(
            f"data.{setting}={shown(language)}, and the tokenizer ({type(tokenizer).__name__}) knows no languages. "
            "Leave it out, or say what to do in data.source_prefix."
        )
    if tokenizer.convert_tokens_to_ids(language) in (None, tokenizer.unk_token_id):
        raise ConfigError(f"data.{setting}={shown(language)} is no language of the tokenizer. Look up its codes.")
    setattr(tokenizer, attribute, language)
