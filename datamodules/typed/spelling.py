"""Pinyin as keyboards write it: the syllables of Standard Mandarin, their initials, and the ways to type them."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from lightrail.project.basics.errors import ConfigError, shown

_FINALS = {
    "": "a ai an ang ao e ê ei en eng er o ou hm hng m n ng",
    "b": "a ai an ang ao ei en eng i ian iang iao ie in ing o u",
    "p": "a ai an ang ao ei en eng i ia ian iao ie in ing o ou u",
    "m": "a ai an ang ao e ei en eng i ian iao ie in ing iu o ou u",
    "f": "a an ang ei en eng iao o ou u",
    "d": "a ai an ang ao e ei en eng i ia ian iao ie in ing iu ong ou u uan ui un uo",
    "t": "a ai an ang ao e ei eng i ian iao ie ing ong ou u uan ui un uo",
    "n": "a ai an ang ao e ei en eng i ia ian iang iao ie in ing iu ong ou u uan un uo v ve",
    "l": "a ai an ang ao e ei en eng i ia ian iang iao ie in ing iu o ong ou u uan un uo v van ve vn",
    "g": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "k": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "h": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "j": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "q": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "x": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "zh": "a ai an ang ao e ei en eng i ong ou u ua uai uan uang ui un uo",
    "ch": "a ai an ang ao e en eng i ong ou u ua uai uan uang ui un uo",
    "sh": "a ai an ang ao e ei en eng i ou u ua uai uan uang ui un uo",
    "r": "an ang ao e en eng i ong ou u ua uan ui un uo",
    "z": "a ai an ang ao e ei en eng i ong ou u uan ui un uo",
    "c": "a ai an ang ao e ei en eng i ong ou u uan ui un uo",
    "s": "a ai an ang ao e en eng i ong ou u uan ui un uo",
    "y": "a an ang ao e i in ing o ong ou u uan ue un",
    "w": "a ai an ang ei en eng o u",
}
SYLLABLES = tuple(initial + final for initial, finals in _FINALS.items() for final in finals.split())
"""The toneless syllables of Standard Mandarin, as `read_aloud` writes them."""
INTERJECTIONS = frozenset({"hm", "hng", "m", "n", "ng"})
"""The syllables without a vowel."""
INITIALS = tuple(initial for initial in _FINALS if initial)
FUZZY_PAIRS = ("z/zh", "c/ch", "s/sh", "n/l", "an/ang", "en/eng", "in/ing", "u/v")
"""Initials and finals that many do not distinguish, u/v on keyboards; a final is also the end of another, as in `ian`.
"""
APOSTROPHES = "'\u2018\u2019\u02bc\uff07"
TONE_MARKS = "\u0300\u0301\u0304\u0306\u030c"
_SYLLABLE = re.compile(
    r"(?P<letters>(?:[zcs]h|[bpmfdtnlgkhjqxrzcsyw])?[aeiouv]{1,3}(?:ng?|r)?|hm|hng|m|ng?|ê)(?P<tone>[0-5])?"
)
_TONE_MARK = re.compile(f"[{TONE_MARKS}]")
_AFTER_TONE = re.compile("(?<=[0-5])(?=[a-zê])")
_APOSTROPHE = re.compile(f"(?<=.)[{APOSTROPHES}](?=.)")


def normalised(tokens: str) -> list[str]:
    """Split typed tokens at spaces, apostrophes and tone numbers, in lower case; syllables as `read_aloud` writes them.

    V stands for ü. Tone marks, tone numbers, full-width letters and the other spellings of ü (u:, u with a combining
    diaeresis, lue and nue for lüe and nüe, jü for ju) are those of syllables alone: any other token is only put into
    lower case.

    >>> normalised("Nü er  LU: xi'an wǒ3 hao3ma5")
    ['nv', 'er', 'lv', 'xi', 'an', 'wo', 'hao', 'ma']
    """
    return [syllable for token in tokens.lower().split() for syllable in _syllables(token)]


def initial_of(syllable: str) -> str:
    """Return the initial of a syllable, or the first letter of one that has none: `zh` of `zhong`, `a` of `ai`."""
    return syllable[:2] if syllable[:2] in ("zh", "ch", "sh") else syllable[:1].replace("ê", "e")


def spellings() -> dict[str, str]:
    """Return the syllable of each way to type one in letters without tones, v standing for ü.

    >>> spellings()["lue"], spellings()["jv"]
    ('lve', 'ju')
    """
    found = {syllable: syllable for syllable in SYLLABLES}
    found |= {
        syllable.replace("u", "v"): syllable for syllable in SYLLABLES if syllable[:2] in ("ju", "qu", "xu", "yu")
    }
    return found | {"lue": "lve", "nue": "nve"}


def check_fuzzy(pairs: Sequence[str], setting: str) -> None:
    """Check that all pairs are among FUZZY_PAIRS. Raises: ConfigError naming the setting."""
    if unknown := [pair for pair in pairs if pair not in FUZZY_PAIRS]:
        raise ConfigError(
            f"{setting}: {shown(unknown[0])} is no pair that is confused. Choose among {', '.join(FUZZY_PAIRS)}."
        )


def fuzzy_partners(syllable: str, pairs: Sequence[str]) -> Mapping[str, int]:
    """Return the syllables that a syllable is confused with, and how many pairs each differs by.

    >>> fuzzy_partners("zan", ["z/zh", "an/ang"])
    {'zhan': 1, 'zang': 1, 'zhang': 2}
    """
    initial = initial_of(syllable) if initial_of(syllable) in INITIALS else ""
    initials, finals = {initial: 0}, {syllable.removeprefix(initial): 0}
    for pair in pairs:
        for own, other in (pair.split("/"), pair.split("/")[::-1]):
            if own in INITIALS:
                initials |= {other: 1} if initials.get(own) == 0 else {}
            else:
                ends = [known for known, num in finals.items() if known.endswith(own) and not num]
                finals |= {known.removesuffix(own) + other: 1 for known in ends}
    found = {one + two: num + own for one, num in initials.items() for two, own in finals.items()}
    known = {partner: num for partner, num in found.items() if num and partner in _KNOWN}
    return dict(sorted(known.items(), key=lambda item: item[1]))


_KNOWN = frozenset(SYLLABLES)


@lru_cache(maxsize=2**16)
def _syllables(token: str) -> Sequence[str]:
    plain = [_AFTER_TONE.sub(" ", _toneless(part)) for part in _APOSTROPHE.split(token)]
    parts = [_SYLLABLE.fullmatch(syllable) for part in plain for syllable in part.split(" ")]
    return [_with_v(part["letters"]) for part in parts if part] if all(parts) else [token]


def _toneless(token: str) -> str:
    """The token with half-width letters and v for ü, without tone marks."""
    letters = _TONE_MARK.sub("", unicodedata.normalize("NFD", unicodedata.normalize("NFKC", token)))
    return unicodedata.normalize("NFC", letters.replace("u:", "v").replace("u\u0308", "v"))


def _with_v(syllable: str) -> str:
    if syllable[0] in "jqxy":  # the u of these is ü, and is written u
        return syllable.replace("v", "u")
    return f"{syllable[0]}ve" if syllable in ("lue", "nue") else syllable
