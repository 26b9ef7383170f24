"""What is shown of a growing text stays, however tokens cut its characters and its stop strings."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.models.generating import GrowingText, TextModel, load_text_model, text_model
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.language_model import TEXTS, language_model, write_checkpoint
from tests.support.tiny import Signs

BYTES = load_language_tokenizer("bytes")
TEXT = "春天 came, 🙂 ça va?"


def parts(tokenizer: LanguageTokenizer, ids: Sequence[int], stops: Sequence[str] = (), prompt: str = "") -> list[str]:
    """What is shown after each token, and at the end."""
    growing = GrowingText(tokenizer, [tokenizer.start_id, *tokenizer.encode(prompt).tolist()], stops)
    return [*(growing.add(token) for token in ids), growing.end()]


def test_a_character_is_shown_with_its_last_byte() -> None:
    shown = parts(BYTES, BYTES.encode("花a🙂").tolist())
    assert shown == ["", "", "花", "a", "", "", "", "🙂", ""]


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    assert parts(BYTES, [*BYTES.encode("a").tolist(), 0xE8, 0x8A]) == ["a", "", "", "\ufffd"]
    assert "".join(parts(BYTES, [0xFF, ord("b")])) == "\ufffdb"


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 255) | st.sampled_from([0xE8, 0x8A, 0xB1]), max_size=30))
def test_any_bytes_are_shown_as_they_are_decoded_together(ids: list[int]) -> None:
    assert "".join(parts(BYTES, ids)) == BYTES.decode(ids)


@pytest.mark.parametrize("name", ["characters", "bytes", "subwords"])
def test_the_parts_are_the_text(name: str) -> None:
    tokenizer = load_language_tokenizer(name, [*TEXTS, TEXT], max_vocabulary=300)
    for prompt in ("", "to be", "春"):
        shown = parts(tokenizer, [*tokenizer.encode(TEXT).tolist(), tokenizer.end_id], prompt=prompt)
        assert "".join(shown) == TEXT
        assert "\ufffd" not in "".join(shown)


def piece_tokenizer() -> LanguageTokenizer:
    """As Llama's first ones are: a space is part of the word behind it, and the first one is no part of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<s>", "</s>", "▁Once", "▁upon", "s", *(f"<0x{number:02X}>" for number in range(256))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    spelling = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(spelling)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    facts = {"kind": "pretrained", "size": len(pieces), "start_id": 0, "end_id": 1, "json": backend.to_str()}
    return LanguageTokenizer.from_facts({**facts, "chat_template": None, "special_tokens": special})


def test_a_space_before_a_word_is_kept_within_the_text() -> None:
    tokenizer = piece_tokenizer()
    assert parts(tokenizer, [2, 3, 4]) == ["Once", " upon", "s", ""]
    growing = GrowingText(tokenizer, [0, 2])
    assert [growing.add(3), growing.add(2)] == [" upon", " Once"]


def test_bytes_among_word_pieces_wait_for_the_others() -> None:
    tokenizer = piece_tokenizer()
    first, second = ([5 + byte for byte in character.encode()] for character in "花天")
    shown = parts(tokenizer, [2, *first, *second, 3])
    assert "".join(shown) == "Once花天 upon"
    assert shown[:4] == ["Once", "", "", "花"]


@pytest.mark.parametrize("size", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["\n\n"], "a\nb ab abc"),
        (["abc", "zz"], "a\nb ab "),
        (["never", "a\nc"], "a\nb ab abc\n\nd a"),
        (["d a"], "a\nb ab abc\n\n"),
        (["d a", "abc"], "a\nb ab "),
        ([], "a\nb ab abc\n\nd a"),
    ],
)
def test_a_stop_string_ends_the_text_however_tokens_split_it(size: int, stops: list[str], expected: str) -> None:
    text = "a\nb ab abc\n\nd a"
    growing = GrowingText(load_language_tokenizer("characters", [text]), [], stops)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    growing._decode = lambda *, is_last: "" if is_last else next(queue)  # type: ignore[method-assign]
    queue = iter(pieces)
    assert "".join([*(growing.add(0) for _ in pieces), growing.end()]) == expected
    assert growing.has_ended


def test_what_may_begin_a_stop_string_waits_and_is_not_lost() -> None:
    tokenizer = load_language_tokenizer("characters", ["ab<c"])
    growing = GrowingText(tokenizer, [], ["<<end"])
    ids = {character: int(tokenizer.encode(character)[0]) for character in "ab<"}
    assert [growing.add(ids[character]) for character in "a<<<b"] == ["a", "", "", "<", "<<b"]
    assert growing.add(None) == ""
    assert growing.has_ended
    assert growing.add(ids["a"]) == ""


def greedy(model: TextModel, prompt: str, **more: object) -> str:
    config = GenerationConfig(temperature=0, max_tokens=12)
    return "".join(part for (part,) in model.samples(model.prompt_ids(prompt), config, **more))  # type: ignore[arg-type]


def test_samples_end_at_their_own_stop_strings() -> None:
    model = text_model(language_model(), "it")
    whole = greedy(model, "春")
    stop = whole[4:6]
    assert greedy(model, "春", stops=[stop]) == whole[: whole.index(stop)]


def test_samples_are_those_of_the_seed_whatever_their_number() -> None:
    model = text_model(language_model(), "it")
    config = GenerationConfig(max_tokens=12, seed=3)

    def texts(number: int) -> list[str]:
        steps = list(model.samples(model.prompt_ids("to"), config, num_samples=number))
        return ["".join(step[sample] for step in steps) for sample in range(number)]

    assert texts(3)[:2] == texts(2)
    assert len(set(texts(3))) == 3


def test_a_checkpoint_writes_what_the_model_does(tmp_path: Path) -> None:
    model = language_model()
    path = write_checkpoint(model, tmp_path / "best.ckpt")
    loaded = load_text_model(str(path), TrackingConfig())
    assert isinstance(loaded, TextModel)
    assert greedy(loaded, "春") == greedy(text_model(model, "it"), "春")


def test_a_task_that_writes_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"best\.ckpt is a Signs, which writes no text\. Predictions: lightrail pred"):
        text_model(Signs(), "best.ckpt")
