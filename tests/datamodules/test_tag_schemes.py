"""Tags become spans and the same tags again, in every scheme; what a scheme does not allow is found where it stands."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.spans.tag_schemes import ROLES, Scheme, SchemeEvidence, Span, read_tags, split_tag
from tests.support.tagged_texts import write_tags

SCHEMES = list(ROLES)
KINDS = ("PER", "ORG.NAM", "a-b_c")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Entities that do not overlap, neighbours of one type among them, and the sentence's length."""
    spans: list[Span] = []
    position = 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(KINDS)), max_size=6)
    ):
        spans.append((position + gap, position + gap + length, kind))
        position += gap + length
    return spans, position + draw(st.integers(0, 2))


def has_neighbours_of_one_type(spans: list[Span]) -> bool:
    return any(one[1:] == (other[0], other[2]) for one, other in pairwise(spans))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(sentence=sentences())
def test_entities_come_back_from_their_tags(scheme: Scheme, sentence: tuple[list[Span], int]) -> None:
    spans, num_tokens = sentence
    read, faults = read_tags(write_tags(spans, num_tokens, scheme), scheme)
    assert not faults
    if scheme != "IO" or not has_neighbours_of_one_type(spans):
        assert read == spans


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_tags_that_are_legal_come_back_from_their_entities(scheme: Scheme, data: st.DataObject) -> None:
    known = ["O", *(f"{letter}-{kind}" for letter in ROLES[scheme] for kind in KINDS[:2])]
    tags = data.draw(st.lists(st.sampled_from(known), max_size=7))
    spans, faults = read_tags(tags, scheme)
    assert all(0 <= start < end <= len(tags) for start, end, _ in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert (write_tags(spans, len(tags), scheme) == tags) == (not faults)


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("IOB2", "B-PER I-PER O B-LOC B-LOC", [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")]),
        ("IOB1", "I-PER I-PER B-PER O I-LOC I-PER", [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC"), (5, 6, "PER")]),
        ("IO", "I-PER I-PER I-LOC O", [(0, 2, "PER"), (2, 3, "LOC")]),
        ("BIOES", "B-PER I-PER E-PER S-PER O", [(0, 3, "PER"), (3, 4, "PER")]),
        ("BMES", "B-PER M-PER E-PER S-PER", [(0, 3, "PER"), (3, 4, "PER")]),
        ("BMEW", "B-PER E-PER W-PER", [(0, 2, "PER"), (2, 3, "PER")]),
        ("BILOU", "B_PER I_PER L_PER U_LOC", [(0, 3, "PER"), (3, 4, "LOC")]),
    ],
)
def test_each_scheme_is_read(scheme: Scheme, tags: str, expected: list[Span]) -> None:
    assert read_tags(tags.split(), scheme) == (expected, [])


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "reason", "repaired"),
    [
        ("IOB2", "O I-PER", 1, "I-PER without B-PER before it", [(1, 2, "PER")]),
        ("IOB2", "B-LOC I-PER", 1, "I-PER without B-PER before it", [(0, 1, "LOC"), (1, 2, "PER")]),
        ("IOB1", "O B-PER", 1, "does not directly follow an entity of its type", [(1, 2, "PER")]),
        ("BIOES", "B-PER O", 1, "O where the PER before it has not ended", [(0, 1, "PER")]),
        ("BIOES", "B-PER B-LOC E-LOC", 1, "B-LOC where the PER before it", [(0, 1, "PER"), (1, 3, "LOC")]),
        ("BIOES", "O E-PER", 1, "E-PER without B-PER before it", [(1, 2, "PER")]),
        ("BIOES", "O B-PER I-PER", 2, "the sentence ends and its last PER", [(1, 3, "PER")]),
        ("BMES", "S-PER E-PER O", 1, "E-PER without B-PER before it", [(0, 1, "PER"), (1, 2, "PER")]),
    ],
)
def test_an_illegal_tag_is_placed_and_read_as_a_border(
    scheme: Scheme, tags: str, index: int, reason: str, repaired: list[Span]
) -> None:
    spans, (fault,) = read_tags(tags.split(), scheme)
    assert (fault.token, fault.can_repair, spans) == (index, True, repaired)
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("scheme", "tags", "whole"),
    [
        ("IOB2", "B-LOC I-PER I-PER B-PER", [(0, 1, "LOC"), (3, 4, "PER")]),
        ("IOB1", "I-LOC O B-PER I-PER", [(0, 1, "LOC")]),
        ("BIOES", "B-PER O S-LOC E-PER I-LOC E-LOC B-LOC E-LOC", [(2, 3, "LOC"), (6, 8, "LOC")]),
        ("BMES", "B-PER E-PER B-PER M-PER", [(0, 2, "PER")]),
        ("BMES", "B-PER B-PER E-PER", [(1, 3, "PER")]),
    ],
)
def test_broken_entities_may_be_left_out(scheme: Scheme, tags: str, whole: list[Span]) -> None:
    spans, faults = read_tags(tags.split(), scheme, keeps_broken=False)
    assert spans == whole
    assert faults == read_tags(tags.split(), scheme)[1] != []


@pytest.mark.parametrize(("scheme", "theirs"), [("IOB2", "IOB2"), ("BIOES", "IOBES"), ("BILOU", "BILOU")])
@given(data=st.data())
def test_what_is_left_is_what_seqeval_counts_in_strict_mode(scheme: Scheme, theirs: str, data: st.DataObject) -> None:
    seqeval = pytest.importorskip("seqeval.scheme")
    known = ["O", *(f"{letter}-{kind}" for letter in ROLES[scheme] for kind in "XY")]
    tags = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=8))
    (entities,) = seqeval.Entities([tags], getattr(seqeval, theirs)).entities
    expected = sorted((start, end, kind) for _, kind, start, end in (entity.to_tuple() for entity in entities))
    assert read_tags(tags, scheme, keeps_broken=False)[0] == expected


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("B", "B has no type"),
        ("M-PER", "'M-PER' is no tag of the scheme IOB2"),
        ("Person", "no tag"),
        ("B-", "no tag"),
        ("o", "no tag"),
        ("B-a b", "no tag"),
    ],
)
def test_a_tag_that_says_nothing_cannot_be_repaired(tag: str, reason: str) -> None:
    spans, (fault,) = read_tags(["B-PER", tag, "O"], "IOB2")
    assert (spans, fault.token, fault.can_repair) == ([(0, 1, "PER")], 1, False)
    assert reason in fault.reason


def decided(*sentences: str) -> Scheme | None:
    evidence = SchemeEvidence()
    for sentence in sentences:
        evidence.add(sentence.split())
    return evidence.decide()


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["O B-PER I-PER", "B-LOC B-LOC"], "IOB2"),
        (["O I-PER B-PER", "I-LOC O"], "IOB1"),
        (["I-PER O I-LOC"], "IOB1"),
        (["O B-PER"], "IOB2"),
        (["B-PER I-PER E-PER", "S-LOC"], "BIOES"),
        (["B-PER E-PER"], "BIOES"),
        (["B-PER M-PER E-PER"], "BMES"),
        (["B-PER M-PER E-PER W-PER"], "BMEW"),
        (["B-PER L-PER", "U-LOC"], "BILOU"),
        (["B-PER I-PER", "O I-PER", "B-LOC O"], "IOB2"),
        (["B-PER I-PER M-PER"], None),
        (["X-PER"], None),
    ],
)
def test_the_scheme_is_told_by_the_tags(sentences: list[str], scheme: Scheme | None) -> None:
    assert decided(*sentences) == scheme


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
@given(sentence=sentences())
def test_what_was_told_reads_the_tags_it_was_told_by(scheme: Scheme, sentence: tuple[list[Span], int]) -> None:
    spans, num_tokens = sentence
    tags = write_tags(
        [(1, 3, "PER"), *((start + 4, end + 4, kind) for start, end, kind in spans)], num_tokens + 4, scheme
    )
    found = decided(" ".join(tags))
    assert found is not None
    assert read_tags(tags, found) == read_tags(tags, scheme)


def test_the_evidence_says_what_it_saw() -> None:
    evidence = SchemeEvidence()
    evidence.add(["B-PER", "I-PER", "O", "I-LOC", "garbage"])
    assert str(evidence).startswith("B 1, I 2; 1 entities begin with B and 1 with I, without those that directly")
    assert str(SchemeEvidence()).startswith("no tag but O")


def test_a_type_may_hold_hyphens() -> None:
    assert split_tag("B-event-film") == ("B", "event-film")
