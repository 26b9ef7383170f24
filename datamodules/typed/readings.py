"""How sure the readings of Chinese sentences are, and in which characters they are written, for `lightrail check`."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

HANZI = re.compile(r"[\u3400-\u9fff\U00020000-\U000323af]")


def hanzi_remarks(texts: Iterable[str], *, are_read_aloud: bool) -> Iterator[str]:
    """Yield what a check says about the hanzi of texts: how many have unsure readings, and how many are traditional.

    Args:
        are_read_aloud: whether the syllables are those that pypinyin gives, and not those of a file.
    """
    num_hanzi = num_unsure = num_traditional = 0
    for text in texts:
        hanzi = HANZI.findall(text)
        num_hanzi += len(hanzi)
        num_traditional += sum(map(is_traditional, hanzi))
        num_unsure += num_unsure_readings(text) if are_read_aloud else 0
    if num_unsure:
        yield (
            f"{_percent(num_unsure, num_hanzi)} hanzi have several readings, and are in no phrase of pypinyin's "
            "dictionary that decides: their syllables may be wrong."
        )
    if num_traditional:
        yield f"{_percent(num_traditional, num_hanzi)} hanzi are traditional: in Big5, and not in GB 2312."


def num_unsure_readings(text: str) -> int:
    """Return the number of hanzi with several toneless readings in no phrase that pypinyin knows.

    >>> num_unsure_readings("银行"), num_unsure_readings("行了")
    (0, 2)
    """
    from pypinyin.constants import PHRASES_DICT
    from pypinyin.seg.mmseg import seg

    single = (character for own in seg.cut(text) if own not in PHRASES_DICT for character in own)
    return sum(map(_has_several_readings, single))


@lru_cache(maxsize=2**15)
def is_traditional(character: str) -> bool:
    """Whether a hanzi is written in traditional characters alone; nearly: rare ones of both count too."""
    return not _is_encoded(character, "gb2312") and _is_encoded(character, "big5")


def _is_encoded(character: str, encoding: str) -> bool:
    return bool(character.encode(encoding, errors="ignore"))


@lru_cache(maxsize=2**15)
def _has_several_readings(character: str) -> bool:
    from pypinyin import Style, pinyin

    readings = pinyin(character, style=Style.NORMAL, heteronym=True, errors="ignore")
    return len(set(*readings)) > 1


def _percent(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.1f} %)"
