"""The lattice of a typed text has every way to read it, and gives back what is no pinyin."""

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightrail.datamodules.typed.lattice import Edge, EdgeKind, Lattice, TypingConfig, typed_lattice
from lightrail.datamodules.typed.spelling import (
    FUZZY_PAIRS,
    INTERJECTIONS,
    SYLLABLES,
    fuzzy_partners,
    initial_of,
    normalised,
)
from lightrail.project.basics.errors import ConfigError

PLAIN = TypingConfig(initials=False)
MARKED = "\u0304\u0301\u030c\u0300"
ORDINARY = [own for own in SYLLABLES if own not in INTERJECTIONS]


def paths(text: str, config: TypingConfig = PLAIN) -> Iterator[list[Edge]]:
    """Yield all paths of a short text."""
    edges, waiting = typed_lattice(text, config).edges, list[list[Edge]]([[]])
    while waiting:
        path = waiting.pop()
        place = path[-1].end if path else 0
        if place == len(text):
            yield path
        waiting += [[*path, edge] for edge in edges if edge.start == place]


def readings(text: str, config: TypingConfig = PLAIN, most: float = 0) -> set[str]:
    """Return the tokens of all paths up to a cost."""
    found = ((sum(edge.cost for edge in path), [edge.token for edge in path]) for path in paths(text, config))
    return {" ".join(tokens) for cost, tokens in found if cost <= most}


def least_cost(lattice: Lattice, tokens: list[str]) -> float | None:
    """Return the cost of the cheapest path whose tokens these are."""
    costs = {(0, 0): 0.0}
    for edge in lattice.edges:
        for number, token in enumerate(tokens):
            if token == edge.token and (cost := costs.get((edge.start, number))) is not None:
                key = (edge.end, number + 1)
                costs[key] = min(costs.get(key, cost + edge.cost), cost + edge.cost)
    return costs.get((len(lattice.text), len(tokens)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xian", {"xian", "xi an"}),
        ("xi'an", {"xi an"}),
        ("xi an", {"xi an"}),
        ("Xi\u2019an", {"xi an"}),
        ("fangan", {"fang an", "fan gan"}),
        ("nanguo", {"nan guo", "nan gu o"}),
        ("danao", {"da nao", "dan ao", "da na o", "dan a o"}),
        ("x\u012b\u0101n", {"xi an"}),
        ("xi\u0101n", {"xian", "xi an"}),
        ("wo3ni3", {"wo ni", "wo 3 ni", "wo ni 3", "wo 3 ni 3"}),
        ("wo33ni", {"wo 3 3 ni"}),
        ("woni3", {"wo ni 3"}),
        ("l\u00fcse lvse", {"lv se lv se"}),
        ("lu:se", {"lv se", "lu : se"}),
        ("lue nue", {"lve nve", "lu e nve", "lve nu e", "lu e nu e"}),
        ("jv qv'yv lvnv", {"ju qu yu lv nv"}),
        ("Beijing", {"bei jing"}),
        ("BeiJing", {"bei jing"}),
        ("nar", {"na er"}),
        ("zher4", {"zhe er", "zhe er 4"}),
        ("zhe4r", {"zhe er", "zhe 4 er"}),
        (" ni,  ma ", {"ni , ma"}),
        ("ni\u6211ma2020", {"ni \u6211 ma 2 0 2 0"}),
        ("\uff2e\uff49 ma", {"ni ma"}),
        ("n ng", {"n ng"}),
        ("", {""}),
    ],
)
def test_typed_syllables_are_read_in_each_way_that_they_can_be_cut(text: str, expected: set[str]) -> None:
    assert readings(text) == expected


def test_what_is_typed_otherwise_costs_what_the_settings_say() -> None:
    config = TypingConfig(
        fuzzy=["z/zh", "an/ang"], fuzzy_cost=1, initial_cost=10, unfinished_cost=100, capital_cost=1000, copied_cost=1e5
    )

    def cost(text: str, tokens: str, own: TypingConfig = config) -> float | None:
        return least_cost(typed_lattice(text, own), tokens.split())

    assert [cost("zan,", own) for own in ("zan ,", "zhan ,", "zang ,", "zhang ,")] == [0, 1, 1, 2]
    assert cost("zan,", "zhan ,", TypingConfig()) is None
    assert [cost("bjzh", own) for own in ("b- j- z- h-", "b- j- zh-", "b- j- z- h- a-")] == [40, 30, None]
    assert cost("zg", "zh- g-") == 20
    assert cost("zhg", "z- g-") == 21
    assert cost("woaibj", "wo ai b- j-") == 20
    assert cost("woaibj", "wo ai b- j-", PLAIN) is None
    assert [cost("wozho", own) for own in ("wo zhong", "wo zhou", "wo zho")] == [100, 100, None]
    assert cost("zho wo", "zhong wo") is None
    assert [cost("NI", "ni"), cost("Ni", "ni"), cost("nI", "ni"), cost("A", "a")] == [2000, 0, 1000, 1000]
    assert [cost("USB", "USB"), cost("ni3", "ni 3")] == [3e5, 0]
    assert [cost("re", "er e"), cost("nare", "na er e"), cost("nar", "na er")] == [None, 10, 0]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("womenquKTV", "wo men qu KTV"),
        ("wodeemail", "wo de email"),
        ("wo yong Python3 xie", "wo yong Python 3 xie"),
        ("woyongpythonxie", "wo yong python xie"),
        ("WiFi de", "WiFi de"),
        ("wo de iPhone", "wo de iPhone"),
        ("KTVli", "KTV li"),
        ("bjKTV", "b- j- KTV"),
        ("data", "data"),
        ("woyongpythonhetensorflow", "wo yong python he tensorflow"),
        ("woaibjemailwoaiktvhaoma", "wo ai bj email wo ai ktv hao ma"),
    ],
)
def test_words_that_are_no_pinyin_are_copied(text: str, tokens: str) -> None:
    assert least_cost(typed_lattice(text, TypingConfig()), tokens.split()) is not None


def test_spaces_are_kept_between_copied_words_alone() -> None:
    text = " KTV  USB, ni  ma KTV "
    assert readings(text, replace(PLAIN, copied_cost=0.01), most=0.09) == {" KTV   USB , ni ma KTV  "}
    assert " KTV   USB ,  ni   ma  KTV  " in readings(text, most=99)
    assert readings("don't", PLAIN, most=99) == {"don 't"}


hostile = st.text(
    st.one_of(
        st.sampled_from("aeinuvrgzhAU:'\u2019 \u3000\u0301\u0308\u030205\u00fc\u6211\0\u200d\n\t"), st.characters()
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(hostile, st.lists(st.sampled_from(FUZZY_PAIRS), unique=True), st.booleans())
@example("\ud800nv\u0301\u0308\u0301 a'\ud83d\ude00n'\u0301", [], True)
@example("u: lu::' r3'r33", ["u/v"], True)
def test_any_text_comes_back_as_it_is_and_every_edge_is_on_a_path(text: str, pairs: list[str], initials: bool) -> None:
    lattice = typed_lattice(text, TypingConfig(fuzzy=pairs, initials=initials))
    places = [(edge.start, edge.end) for edge in lattice.edges]
    assert places == sorted(places)
    assert {start for start, _ in places} | {len(text)} == {end for _, end in places} | {0}
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(edge.token == text[edge.start : edge.end] for edge in lattice.edges if edge.kind is EdgeKind.COPIED)
    copied = {0: ""}
    for edge in lattice.edges:
        if edge.kind is EdgeKind.COPIED and edge.start in copied:
            copied[edge.end] = copied[edge.start] + edge.token
    assert copied[len(text)] == text


@st.composite
def typed(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Syllables, and one of the ways to type them."""
    text, tokens, is_open = "", [], False
    for _ in range(draw(st.integers(1, 8))):
        syllable, is_initial = draw(st.sampled_from(ORDINARY)), draw(st.integers(0, 4)) == 0
        letters = initial_of(syllable) if is_initial else syllable
        if is_open:  # what follows must not be a vowel
            text += draw(st.sampled_from([" ", "'"] if letters[0] in "aeo\u00ea" else ["", " ", "'"]))
        elif text:
            text += draw(st.sampled_from(["", " ", "'", "  "]))
        tokens.append(f"{letters}-" if is_initial and letters != "\u00ea" else letters)
        is_open = tokens[-1].endswith("-")
        text += draw(written(letters, has_tone=not is_open))
    return text, tokens


@st.composite
def written(draw: st.DrawFn, letters: str, *, has_tone: bool) -> str:
    tone = draw(st.sampled_from(["", "mark", "digit"])) if has_tone else ""
    if tone == "mark":
        place = next(number for number, own in enumerate(letters) if own in "aeiouv\u00ea") + 1
        letters = letters[:place] + draw(st.sampled_from(MARKED)) + letters[place:]
    umlauts = ["v", "\u00fc", "u\u0308"] if tone == "mark" else ["v", "\u00fc", "u:"]
    letters = letters.replace("v", draw(st.sampled_from(umlauts)))
    if draw(st.booleans()):
        letters = unicodedata.normalize("NFC", letters)
    if len(letters) > 1 and draw(st.integers(0, 3)) == 0:
        letters = letters[0].upper() + letters[1:]
    return letters + draw(st.sampled_from("12345")) * (tone == "digit")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(typed())
def test_every_way_to_type_syllables_has_them_as_a_path(case: tuple[str, list[str]]) -> None:
    text, tokens = case
    assert least_cost(typed_lattice(text, TypingConfig()), tokens) is not None


@pytest.mark.parametrize("letters", ["a", "xian", "zhr", "woaibjemail", "n'", "a3", "aA", "u:l", "e\u0301"])
def test_edges_grow_with_the_length_alone(letters: str) -> None:
    few, many = (len(typed_lattice(letters * (size // len(letters)), TypingConfig()).edges) for size in (500, 5000))
    assert few <= many <= 10.5 * few
    assert many <= 20 * 5000


def test_a_pair_that_nobody_confuses_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"TypingConfig\.fuzzy: 'b/x' is no pair that is confused\. Choose among z/zh, "
    ):
        TypingConfig(fuzzy=["z/zh", "b/x"])


def test_fuzzy_partners_are_syllables_that_differ_by_the_pairs() -> None:
    assert fuzzy_partners("zan", ["z/zh", "an/ang"]) == {"zhan": 1, "zang": 1, "zhang": 2}
    assert fuzzy_partners("liang", FUZZY_PAIRS) == {"niang": 1, "lian": 1, "nian": 2}
    assert fuzzy_partners("an", FUZZY_PAIRS) == {"ang": 1}
    assert fuzzy_partners("ju", FUZZY_PAIRS) == {}
    assert all(
        fuzzy_partners(other, FUZZY_PAIRS)[own] for own in SYLLABLES for other in fuzzy_partners(own, FUZZY_PAIRS)
    )


def test_the_syllables_are_those_of_mandarin() -> None:
    assert len(SYLLABLES) == len(set(SYLLABLES)) == 427
    assert [own for own in SYLLABLES if normalised(own) != [own]] == []


@pytest.mark.skipif(find_spec("pypinyin") is None, reason="needs lightrail[chinese]")
def test_the_syllables_have_all_readings_that_are_not_of_a_single_rare_character() -> None:
    from pypinyin import Style, pinyin

    hanzi = [chr(code) for code in range(0x4E00, 0x9FA6)]
    found = {own for character in hanzi for own in pinyin(character, style=Style.NORMAL, heteronym=True)[0]}
    assert {own for own in found if own.isascii()} - set(SYLLABLES) <= {"bong", "din", "wong"}
