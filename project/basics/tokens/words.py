"""The words of a text, character by character: Chinese by a segmenter, others by letters and digits; and its sentences.

Shapes: C characters of a text, T its tokens.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.units import Offsets

_CHINESE = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_RUNS = re.compile(f"(?P<chinese>[{_CHINESE}]+)|[^\\W{_CHINESE}]+|\\S")

_SENTENCE_END = re.compile("[。！？!?…]+[”’」』）)\"']*|[.]+[”’)\"']*(?=\\s|$)|\n+")


def sentence_starts(text: str) -> list[int]:
    """Return where the sentences of a text start: they end at 。！？!?…, a full stop before a space, and with a line.

    >>> sentence_starts("他来了。 “好！”她说。Version 2.0 is out. Try it")
    [0, 4, 9, 12, 31]
    """
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    return [start for start, end in pairwise([*ends, len(text)]) if text[start:end].strip()]


class WordFinder:
    """Finds the word of each character; a space belongs to the word after it.

    Words are runs of letters and digits, and single other characters; runs of Chinese characters are divided by jieba.

    Args:
        folder: where jieba keeps its dictionary, prepared for a faster start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segmenter: Any = None

    def words(self, text: str) -> NDArray[np.int32]:
        """Return the number of the word of each character, from 0, [C].

        Raises: ConfigError when the text has Chinese and jieba is not installed.
        """
        ends = np.fromiter(self._ends(text), np.int64)
        return np.searchsorted(ends, np.arange(len(text)), side="right").astype(np.int32)

    def words_of_tokens(self, text: str, offsets: Offsets) -> NDArray[np.int32]:
        """Return the number of the word of each token, from 0, [T]; a token that spans two words joins them."""
        if not offsets:
            return np.zeros(0, np.int32)
        words = np.append(self.words(text), -1)
        starts, ends = np.array(offsets, np.int64).T
        first, last = words[starts], words[np.maximum(starts, ends - 1)]
        return np.cumsum(np.append(False, first[1:] != last[:-1])).astype(np.int32)

    def _ends(self, text: str) -> Iterator[int]:
        for match in _RUNS.finditer(text):
            if match["chinese"]:
                end = match.start()
                for word in self._segmented(match[0]):
                    end += len(word)
                    yield end
            else:
                yield match.end()

    def _segmented(self, text: str) -> list[str]:
        if self._segmenter is None:
            self._segmenter = _load_segmenter(self.folder)
        words: list[str] = self._segmenter.lcut(text)
        return words


def _load_segmenter(folder: Path) -> Any:
    try:
        import jieba
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the words of Chinese text are found by jieba, which is not installed: pip install 'lightrail[chinese]'. "
            "Or mask single tokens: set data.masking.whole_words=false."
        ) from error
    jieba.setLogLevel("WARNING")
    folder.mkdir(parents=True, exist_ok=True)
    segmenter = jieba.Tokenizer()
    segmenter.tmp_dir = str(folder)  # by default a folder that all users of a machine write to
    return segmenter
