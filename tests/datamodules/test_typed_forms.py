"""Training sentences are typed in other forms, in the given proportions; seed, epoch and example decide."""

from pathlib import Path
from typing import Any

import pytest

from lightrail.datamodules.base import Split, SplitConfig
from lightrail.datamodules.batches.batching import row_for_batch
from lightrail.datamodules.pinyin import NOT_A_TARGET, UNKNOWN, PinyinData
from lightrail.datamodules.typed.forms import TypedFormsConfig, as_typed, typed_candidates
from lightrail.project.basics.errors import ConfigError

SENTENCE = ["zhong", "guo", "ren", "，", "ai", "er"] * 50
IS_SYLLABLE = [token != "，" for token in SENTENCE]
SOME = TypedFormsConfig(abbreviated_share=0.5, initial_share=0.4, fuzzy_share=0.3, fuzzy=["z/zh", "en/eng", "an/ang"])


def made(config: TypedFormsConfig, num: int = 200) -> list[list[str]]:
    return [as_typed(SENTENCE, IS_SYLLABLE, config, (0, 0, number)) for number in range(num)]


def test_forms_are_typed_in_the_given_proportions() -> None:
    sentences = made(SOME)
    abbreviated = [own for own in sentences if any(token.endswith("-") for token in own)]
    assert 70 < len(abbreviated) < 130
    initials = sum(token.endswith("-") for own in abbreviated for token in own)
    assert 0.38 < initials / (250 * len(abbreviated)) < 0.42
    full = [own for own in sentences if own not in abbreviated]
    counts = {
        token: sum(own.count(token) for own in full) / (50 * len(full)) for token in ("zong", "reng", "guo", "ai")
    }
    assert counts == {"zong": pytest.approx(0.3, abs=0.03), "reng": pytest.approx(0.3, abs=0.03), "guo": 1, "ai": 1}
    assert {token for own in abbreviated for token in own if token[-1] == "-"} == {"zh-", "g-", "r-", "a-", "e-"}
    assert all(own[3::6] == ["，"] * 50 for own in sentences)


def test_seed_epoch_and_example_decide_alone() -> None:
    assert made(SOME) == made(SOME)
    seeds = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({tuple(as_typed(SENTENCE, IS_SYLLABLE, SOME, seed)) for seed in seeds}) == 4
    assert made(TypedFormsConfig(), num=2) == [SENTENCE] * 2


def test_what_may_be_typed_has_the_characters_of_all_that_it_stands_for() -> None:
    counts = {"zan": {"赞": 9}, "zhan": {"站": 20, "占": 1}, "ai": {"爱": 2}}
    abbreviated = TypedFormsConfig(abbreviated_share=0.1)
    assert typed_candidates(counts, abbreviated) == {
        **counts,
        "z-": {"赞": 9},
        "zh-": {"站": 20, "占": 1},
        "a-": {"爱": 2},
    }
    confused = typed_candidates(counts, TypedFormsConfig(fuzzy_share=0.3, fuzzy=["z/zh"]))
    assert confused == {"zan": {"赞": 9, "站": 6, "占": 1}, "zhan": {"站": 20, "赞": 3, "占": 1}, "ai": {"爱": 2}}
    assert list(confused["zan"]) == ["赞", "站", "占"]


def ready(folder: Path, forms: TypedFormsConfig) -> PinyinData:
    (folder / "train.tsv").write_text("text\tsyllables\n我爱中国。\two ai zhong guo 。\n赞a\tzan a\n", "utf-8")
    path, split = str(folder / "train.tsv"), SplitConfig(drop_repeats=False)
    data = PinyinData(path, validation_path=path, test_path=path, has_syllables=True, forms=forms, split=split)
    data.prepare_data()
    data.setup("fit")
    return data


def batch_of(data: PinyinData, split: Split, epoch: int = 0) -> Any:
    rows = data.dataset(split)
    return data.collate([row_for_batch(rows, number, (0, epoch)) for number in range(len(rows))])


def test_training_rows_are_typed_and_all_others_are_not(tmp_path: Path) -> None:
    data = ready(tmp_path, TypedFormsConfig(abbreviated_share=1, initial_share=1))
    facts, batch = data.facts(), batch_of(data, "train")
    assert batch["tokens"] == [["w-", "a-", "zh-", "g-", "。"], ["z-", "a"]]
    shown = [facts["vocabulary"][number - UNKNOWN - 1] for number in batch["input_ids"][0].tolist()]
    assert shown == batch["tokens"][0]
    assert batch["labels"].tolist() == [[0, 0, 0, 0, NOT_A_TARGET], [0, *[NOT_A_TARGET] * 4]]
    assert (batch["num_tokens"], batch["num_targets"]) == (7, 5)
    for split in ("validation", "test"):
        assert batch_of(data, split)["tokens"] == [["wo", "ai", "zhong", "guo", "。"], ["zan", "a"]]


def test_a_label_is_a_place_among_the_characters_of_the_token_that_is_shown(tmp_path: Path) -> None:
    data = ready(tmp_path, TypedFormsConfig(fuzzy_share=1, fuzzy=["z/zh", "an/ang"]))
    seen = set()
    for epoch in range(20):
        batch = batch_of(data, "train", epoch)
        token, label = batch["tokens"][1][0], int(batch["labels"][1, 0])
        assert list(data.facts()["candidates"][token])[label] == "赞"
        seen.add(token)
    assert seen == {"zhan", "zang", "zhang"}


def test_without_forms_candidates_and_cache_are_as_before(tmp_path: Path) -> None:
    plain, other = TypedFormsConfig(), TypedFormsConfig(fuzzy=["z/zh"], initial_share=0.1)
    assert ready(tmp_path, plain).settings() == ready(tmp_path, other).settings()
    assert "forms" not in ready(tmp_path, plain).settings()
    assert all(not token.endswith("-") for token in ready(tmp_path, plain).facts()["vocabulary"])


def test_a_model_without_initials_cannot_learn_them_from_its_facts(tmp_path: Path) -> None:
    data = PinyinData(str(tmp_path / "train.tsv"), has_syllables=True, forms=TypedFormsConfig(abbreviated_share=0.1))
    data.adopt(ready(tmp_path, TypedFormsConfig()).facts())
    data.validation_path = data.test_path = data.path
    data.split = SplitConfig(drop_repeats=False)
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.forms\.abbreviated_share is above 0, and the model was"):
        data.dataset("train")


def test_settings_that_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.forms\.fuzzy_share is 0\.1, and data\.forms\.fuzzy names no pair"):
        PinyinData("x.txt", forms=TypedFormsConfig(fuzzy_share=0.1))
    with pytest.raises(ConfigError, match=r"data\.forms\.fuzzy: 'x/y' is no pair"):
        PinyinData("x.txt", forms=TypedFormsConfig(fuzzy=["x/y"]))
    with pytest.raises(ConfigError, match=r"abbreviated_share: expected a number of at least 0 and up to 1, found 2"):
        TypedFormsConfig(abbreviated_share=2)
