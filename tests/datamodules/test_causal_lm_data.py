"""Running text for a language model: weighted sources, blocks, a checkpoint's tokenizer, texts to be scored."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightrail.datamodules.base import ReadingConfig, SplitConfig
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.batches.blocks import NO_TARGET, BlockConfig
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.corpus.files import SourceConfig
from lightrail.project.basics.errors import ConfigError, DataError
from tests.support.texts import SENTENCES, lines, ready, spelled, three_files


def predicted(data: CausalLMData, facts: dict[str, Any]) -> CausalLMData:
    data.adopt(facts)
    data.setup("predict")
    return data


def test_batches_show_each_target_of_an_epoch_once(tmp_path: Path) -> None:
    path = lines(tmp_path, "all.txt", *SENTENCES)
    data = CausalLMData(path, blocks=BlockConfig(length=32), batch=BatchConfig(size=7), tokenizer="bytes")
    ready(data)
    end = data.facts()["tokenizer"]["end_id"]
    wanted = Counter(ord(sign) if sign < "\x80" else sign for text in spelled(data, "train") for sign in text[1:])
    seen: Counter[int] = Counter()
    for batch in data.train_dataloader():
        seen.update(batch["labels"][batch["labels"] != NO_TARGET].tolist())
    assert seen[end] == len(data.rows("train"))
    assert all(seen[own] == count for own, count in wanted.items() if isinstance(own, int) and own != ord("|"))


def test_evaluation_batches_say_what_their_targets_spell(tmp_path: Path) -> None:
    data = ready(CausalLMData(lines(tmp_path, "all.txt", *SENTENCES), batch=BatchConfig(size=3)))
    texts, num_bytes = [], 0
    for batch in data.val_dataloader():
        texts += batch["text"]
        num_bytes += sum(batch["num_bytes"])
        assert [len(text) for text in batch["text"]] == batch["num_characters"]
    own = [text[1:-1] for text in spelled(data, "validation")]
    assert sorted(texts) == sorted(own)
    assert num_bytes == sum(len(text.encode()) for text in own)


def test_sources_are_drawn_by_their_weights(tmp_path: Path) -> None:
    sources = [
        SourceConfig(path=lines(tmp_path, "a.txt", *["a" * 7] * 40), weight=0.5),
        SourceConfig(path=lines(tmp_path, "b.txt", *["b" * 7] * 20), weight=2),
    ]
    others = three_files(tmp_path, [], ["a"], ["b"])
    del others["path"]
    data = CausalLMData(sources=sources, **others, blocks=BlockConfig(length=8))
    ready(data)
    assert data.rows("train").values("source").tolist() == [0] * 40 + [1] * 20
    counts: Counter[str] = Counter()
    ids = dict(zip("ab", data._numbering_of(data.facts()).encode("ab").tolist(), strict=True))
    for batch in data.train_dataloader():
        for name, number in ids.items():
            counts[name] += int((batch["labels"] == number).sum())
    assert counts == {"a": 20 * 7, "b": 40 * 7}
    assert data.summaries()[0].source == ", ".join(source.path for source in sources)


def test_a_path_beside_sources_is_refused_but_to_predict(tmp_path: Path) -> None:
    path = lines(tmp_path, "all.txt", *SENTENCES)
    both = CausalLMData(path, sources=[SourceConfig(path=path)])
    with pytest.raises(ConfigError, match=r"data.path .* and data.sources are both given"):
        both.prepare_data()
    facts = ready(CausalLMData(path)).facts()
    assert len(predicted(both, facts).rows("predict")) == len(SENTENCES)
    with pytest.raises(ConfigError, match=r"data.path is not set"):
        CausalLMData()
    with pytest.raises(ConfigError, match=r"SourceConfig\.weight: expected a number above 0 and up to 1000, found 0"):
        CausalLMData(sources=[SourceConfig(path=path, weight=0)])
    with pytest.raises(
        ConfigError, match=r"CausalLMData\.encoding_processes: expected .* of at least 1 or null, found 0"
    ):
        CausalLMData(path, encoding_processes=0)


def test_the_tokenizer_of_a_checkpoint_wins(tmp_path: Path) -> None:
    first = ready(CausalLMData(lines(tmp_path, "all.txt", *SENTENCES), tokenizer="subwords", max_vocabulary=300))
    other = CausalLMData(lines(tmp_path, "other.txt", *(text.upper() for text in SENTENCES)))
    other.adopt(first.facts())
    ready(other)
    assert other.facts() == first.facts()
    assert spelled(other, "train")[0].isupper()


def test_texts_are_scored_as_they_stand_one_a_line(tmp_path: Path) -> None:
    facts = ready(CausalLMData(lines(tmp_path, "all.txt", *SENTENCES))).facts()
    texts = ["word 北京", "Sentence 5: word ß", "Sentence"]
    data = CausalLMData(lines(tmp_path, "new.txt", *texts), document="file", batch=BatchConfig(size=2))
    predicted(data, facts)
    batches = list(data.predict_dataloader())
    found = {number: text for batch in batches for number, text in zip(batch["id"], batch["text"], strict=True)}
    assert [found[number] for number in range(3)] == [texts[0], texts[1].replace("ß", "\ufffd"), texts[2]]
    assert sum(sum(batch["num_bytes"]) for batch in batches) == sum(len(text.encode()) for text in texts)
    with pytest.raises(DataError, match=r"gap.txt:2: 'text' is empty"):
        predicted(CausalLMData(lines(tmp_path, "gap.txt", "a", "", "b")), facts)


def test_a_single_document_says_how_to_get_a_validation_split(tmp_path: Path) -> None:
    path = lines(tmp_path, "book.txt", *SENTENCES)
    split = SplitConfig(validation_fraction=0.01, test_fraction=0.01)
    data = CausalLMData(path, document="file", split=split)
    message = r"book.txt: no validation examples \(1 train, .*data.validation_path. Or make documents smaller"
    with pytest.raises(DataError, match=message):
        data.prepare_data()


def test_a_check_sees_repeats_within_and_across_splits(tmp_path: Path) -> None:
    files = three_files(tmp_path, [*SENTENCES[:30], SENTENCES[3], SENTENCES[4]], SENTENCES[40:50], SENTENCES[25:35])
    report = ready(CausalLMData(**files)).report()
    page = report.render()
    assert "5 of 10 (50.0 %) test texts also occur in train" in page
    assert "test.txt:1 =" in " ".join(page.split())
    assert "2 of 32 (6.2 %) train rows repeat an earlier text" in page
    page = ready(CausalLMData(**files | {"validation_path": files["path"]})).report().render()
    assert "30 of 32 (93.8 %) validation texts also occur in train" in page or "32 of 32" in page


def test_a_check_of_a_large_corpus_looks_at_a_part_of_all_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightrail.datamodules.causal_lm.MOST_EXAMINED", 60)
    files = three_files(tmp_path, SENTENCES[:200], SENTENCES[57:157], SENTENCES[31:131])
    report = ready(CausalLMData(**files)).report()
    train, validation, _ = report.splits
    assert 0 < len(validation) < len(train) < 120
    assert len(train) + train.num_left_out == 200
    assert f"{len(validation)} of {len(validation)} (100.0 %) validation texts also occur in train" in report.render()
    assert "train texts were checked" in report.render()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n")), min_size=1, max_size=9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_bytes(tmp_path: Path, texts: list[str]) -> None:
    texts.append("x")
    files = three_files(tmp_path, texts, texts, texts)
    data = ready(CausalLMData(**files, tokenizer="bytes", encoding_processes=1))
    wanted = [f"|{text}|" for text in texts if text.strip()]
    wanted[0] = wanted[0].replace("|\ufeff", "|", 1)  # a byte order mark is none of the text
    assert spelled(data, "train") == [own for own in wanted if own != "||"]


def test_rows_go_to_a_worker_as_a_path(tmp_path: Path) -> None:
    data = ready(CausalLMData(lines(tmp_path, "all.txt", *SENTENCES)))
    sent = pickle.dumps(data.rows("train"))
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).values("input_ids"), data.rows("train").values("input_ids"))


def test_other_settings_make_another_cache(tmp_path: Path) -> None:
    path = lines(tmp_path, "all.txt", *SENTENCES)
    changes: list[dict[str, Any]] = [
        {},
        {"document": "paragraph", "split": SplitConfig(validation_fraction=0, test_fraction=0)},
        {"max_vocabulary": 20},
        {"tokenizer": "bytes"},
        {"reading": ReadingConfig(empty="skip")},
    ]
    others: dict[str, Any] = {
        name: lines(tmp_path, f"{name}.txt", "a", "b") for name in ("validation_path", "test_path")
    }
    folders = {str(ready(CausalLMData(path, **{**others, **change}))._folders) for change in changes}
    assert len(folders) == len(changes)
    same = ready(CausalLMData(path, **others, blocks=BlockConfig(length=9), encoding_processes=1))
    assert str(same._folders) in folders
