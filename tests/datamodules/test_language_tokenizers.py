"""Every token says exactly what it spells, and transformers numbers texts alike."""

import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import characters_tokenizer, count_characters, load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

TEXTS = ["Hello <end> wörld\r\n  🙂 e\u0301 你好\t\x00\u2028", "don't 12345 ＡＢＣ", " a  b ", "\ufeff\n\n"]
OWN = ["characters", "bytes", "subwords"]
any_text = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(TEXTS)


@cache
def own(name: str) -> LanguageTokenizer:
    return load_language_tokenizer(name, TEXTS * 3, max_vocabulary=300)


@cache
def as_transformers_loads(name: str, folder: str) -> Any:
    from transformers import AutoTokenizer

    own(name).save(folder)
    return AutoTokenizer.from_pretrained(folder)


def sentence_pieces(folder: Path, **settings: Any) -> str:
    """Save a tokenizer as Llama's: a sign for spaces, bytes for what it does not know, a start before each text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special[:3], show_progress=False)
    backend.train_from_iterator(["low lower lowest new newer"], trainer)
    content = json.loads(backend.to_str())
    vocabulary = content["model"]["vocab"]
    for piece in special[3:]:
        vocabulary[piece] = len(vocabulary)
    backend = Tokenizer.from_str(json.dumps(content))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", OWN)
@given(text=any_text)
@settings(max_examples=60, deadline=None)
def test_transformers_numbers_and_spells_texts_alike(name: str, text: str) -> None:
    import tempfile

    theirs = as_transformers_loads(name, tempfile.mkdtemp())
    ids = own(name).encode(text).tolist()
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == own(name).decode(ids)


@pytest.mark.parametrize("name", OWN)
@given(text=any_text)
@settings(max_examples=60, deadline=None)
def test_what_is_numbered_is_spelled_again(name: str, text: str) -> None:
    tokenizer = own(name)
    ids = tokenizer.encode(text)
    known = set("".join(TEXTS))
    expected = "".join(sign if sign in known else "\ufffd" for sign in text) if name == "characters" else text
    assert tokenizer.decode([tokenizer.start_id, *ids.tolist(), tokenizer.end_id]) == expected
    assert ids.dtype == np.int32
    assert (ids < tokenizer.size).all()


@pytest.mark.parametrize("name", [*OWN, "pieces"])
@given(text=any_text | st.text(st.characters(categories=["Cs", "Ll", "Mn"]), max_size=9))
@settings(max_examples=60, deadline=None)
def test_what_tokens_spell_adds_up_to_the_text(name: str, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizer = pieces_tokenizer(tmp_path_factory) if name == "pieces" else own(name)
    counted = tokenizer.encode_counted(text)
    whole = "".join("\ufffd" if 0xD800 <= ord(sign) < 0xE000 else sign for sign in text)
    assert counted.ids.tolist() == tokenizer.encode(text).tolist()
    assert counted.num_characters.sum() == len(whole)
    assert counted.num_bytes.sum() == len(whole.encode())
    assert len(counted.ids) == len(counted.num_characters) == len(counted.num_bytes)
    assert counted.num_bytes.dtype == np.uint8


_PIECES: list[LanguageTokenizer] = []


def pieces_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LanguageTokenizer:
    if not _PIECES:
        _PIECES.append(load_language_tokenizer(sentence_pieces(tmp_path_factory.mktemp("pieces"))))
    return _PIECES[0]


def test_each_token_counts_its_own_part_of_the_text() -> None:
    text = "a🙂é"
    assert own("characters").encode_counted("H🙂ö").num_bytes.tolist() == [1, 4, 2]
    assert own("bytes").encode_counted(text).num_characters.tolist() == [1, 1, 0, 0, 0, 1, 0]
    tokenizer = load_language_tokenizer("subwords", ["low low low new"] * 5, max_vocabulary=262)
    counted = tokenizer.encode_counted("low new🙂")
    assert counted.num_characters.tolist() == [3, 1, 3, 1, 0, 0, 0]
    assert counted.num_bytes.tolist() == [3, 1, 3, 1, 1, 1, 1]


def test_a_long_unknown_word_counts_whole(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(tmp_path)
    tokenizer = load_language_tokenizer(str(tmp_path))
    assert (tokenizer.start_id, tokenizer.end_id) == (2, 2)  # it has no end but a separator, and puts nothing in front
    assert tokenizer.encode_counted(f"a {'x' * 300}  ").num_characters.tolist() == [1, 303]


def test_a_pretrained_tokenizer_says_what_a_document_begins_and_ends_with(tmp_path: Path) -> None:
    tokenizer = load_language_tokenizer(sentence_pieces(tmp_path / "with"))
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.has_chat_template) == (1, 2, False)
    ids = tokenizer.encode("low newer 🙂")
    assert 1 not in ids  # the start is no part of a text
    assert tokenizer.decode([1, *ids.tolist(), 2]) == "low newer 🙂"
    with pytest.raises(ConfigError, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "Hi"}])


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token that ends a text"):
        load_language_tokenizer(sentence_pieces(tmp_path / "without", eos_token=None))
    with pytest.raises(ConfigError, match=r"Name characters, bytes, subwords, or a folder with tokenizer\.json"):
        load_language_tokenizer(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("damaged", [{"json": ["a"]}, {"json": "{"}, {"kind": []}, {"size": "many"}])
def test_damaged_facts_are_refused(damaged: dict[str, object]) -> None:
    facts = own("characters").facts()
    with pytest.raises(ConfigError, match=r"the tokenizer in a checkpoint: .* name another checkpoint"):
        LanguageTokenizer.from_facts({**facts, **damaged})


@pytest.mark.parametrize("number", [2**31, -1, "1"])
def test_a_token_with_an_absurd_id_is_refused_before_memory_is_reserved(tmp_path: Path, number: object) -> None:
    folder = Path(sentence_pieces(tmp_path / "pieces"))
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] = {"a": 0, "b": number}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"tokenizer.json gives the token 'b' the id"):
        load_language_tokenizer(str(folder))


def test_facts_make_the_tokenizer_again_without_its_folder(tmp_path: Path) -> None:
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    tokenizers = [*map(own, OWN), load_language_tokenizer(sentence_pieces(tmp_path, chat_template=template))]
    for tokenizer in tokenizers:
        again = LanguageTokenizer.from_facts(json.loads(json.dumps(tokenizer.facts())))
        assert again.digest == tokenizer.digest
        assert again.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()
    assert again.render_chat([{"role": "user", "content": "Hi"}]) == "<user>Hi"
    assert len({tokenizer.digest for tokenizer in tokenizers}) == len(tokenizers)


def test_characters_are_the_most_frequent_ones() -> None:
    counts = count_characters(["bbba", "aacc\ufffd", "\ud83d"])
    tokenizer = characters_tokenizer(counts, max_vocabulary=4, min_count=2)
    assert tokenizer.encode("abcd").tolist() == [2, 3, 1, 1]  # equally frequent: in the order of their code points
    assert characters_tokenizer(counts, min_count=3).size == 4
    assert tokenizer.decode([0, 2, 1, 3]) == "a\ufffdb"


@pytest.mark.parametrize(("name", "least"), [("characters", 2), ("subwords", 256)])
def test_a_vocabulary_too_small_is_refused(name: str, least: int) -> None:
    with pytest.raises(ConfigError, match=rf"data.max_vocabulary is {least}. Give at least {least + 1}"):
        load_language_tokenizer(name, TEXTS, max_vocabulary=least)


def test_subwords_are_the_same_in_every_process_and_order() -> None:
    words = [f"{first}{second}" for first in "abcdefgh" for second in ("lo", "we", "r", "est", "北京")]
    program = (
        "import random, sys\nfrom lightrail.project.basics.tokens.learning import load_language_tokenizer\n"
        f"words = {words!r}\nrandom.Random(int(sys.argv[1])).shuffle(words)\n"
        "print(load_language_tokenizer('subwords', [' '.join(['', *words])], max_vocabulary=290).digest)"
    )

    def run(seed: int) -> str:
        command = [sys.executable, "-c", program, str(seed)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert len({run(seed) for seed in range(3)}) == 1
    shuffled = random.Random(7).sample(words, len(words))
    alike = load_language_tokenizer("subwords", [" " + word for word in shuffled], max_vocabulary=290)
    assert alike.digest == run(0)
    assert alike.size == 290


def test_word_pieces_write_chinese_without_spaces(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = {piece: number for number, piece in enumerate(["[UNK]", "[SEP]", *"中国很好", "ok"])}
    backend = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]").save_pretrained(tmp_path)
    tokenizer = load_language_tokenizer(str(tmp_path))
    assert tokenizer.decode(tokenizer.encode("中国ok ok很好")) == "中国 ok ok 很好"


@pytest.mark.parametrize("name", ["size", "start_id", "end_id"])
@pytest.mark.parametrize("value", ["nü", -1, 1.5, True])
def test_a_damaged_number_among_the_facts_is_refused(name: str, value: Any) -> None:
    facts = load_language_tokenizer("characters", ["ab"]).facts()
    with pytest.raises(ConfigError, match=f"the tokenizer in a checkpoint: its {name} is "):
        LanguageTokenizer.from_facts({**facts, name: value})
