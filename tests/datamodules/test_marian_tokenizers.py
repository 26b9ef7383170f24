"""Tokenizers of Marian models, as their authors publish them: the same token ids as transformers gives."""

import base64
from pathlib import Path
from typing import Any

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from tests.support.pretrained_seq2seq import write_opus

TEXTS = ["ab c", "ef ab", "g d ab c", "cd cd ab"]
PROBES = [*TEXTS, "", "  ab   c ", "ab ж€ c", ">>deu<< ab", ">>xxx<<ab", "ab >>deu<<", "ﬁ\tab\n", "</s> ab <unk>"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("marian")
    return folder, write_opus(folder, TEXTS)


def test_both_sides_have_the_token_ids_of_transformers(written: tuple[Path, Any]) -> None:
    folder, theirs = written
    source = load_language_tokenizer(str(folder))
    target = LanguageTokenizer.from_facts(source.of_targets().facts())
    for text in PROBES[:-1]:
        assert source.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"], text
        assert target.encode(text).tolist() == theirs(text_target=text, add_special_tokens=False)["input_ids"], text
    assert source.encode("ab").tolist() != target.encode("ab").tolist()
    assert source.has_ids_of(target)


def test_special_tokens_in_a_text_are_text(written: tuple[Path, Any]) -> None:
    """Transformers reads them as what they stand for, and a text could end a translation."""
    tokenizer = load_language_tokenizer(str(written[0]))
    assert tokenizer.end_id not in tokenizer.encode(PROBES[-1]).tolist()


def test_ids_are_decoded_as_transformers_does(written: tuple[Path, Any]) -> None:
    folder, theirs = written
    tokenizer = load_language_tokenizer(str(folder)).of_targets()
    for text in TEXTS:
        ids = [*tokenizer.encode(text).tolist(), tokenizer.end_id]
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == text


def test_a_text_of_a_language_model_is_refused(written: tuple[Path, Any]) -> None:
    with pytest.raises(ConfigError, match="for translations"):
        load_language_tokenizer(str(written[0])).encode_counted("ab")


def test_a_damaged_model_of_a_side_is_refused_in_one_line(written: tuple[Path, Any]) -> None:
    facts = load_language_tokenizer(str(written[0])).facts()
    facts["files"] = {**facts["files"], "source.spm": base64.b64encode(b"damaged").decode()}
    with pytest.raises(ConfigError, match="the tokenizer in a checkpoint"):
        LanguageTokenizer.from_facts(facts)
