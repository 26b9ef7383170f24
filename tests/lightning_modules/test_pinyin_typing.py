"""Letters as people type them: how they are cut and which characters they become."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightrail.datamodules.base import ReadingConfig
from lightrail.datamodules.batches.batching import row_for_batch
from lightrail.datamodules.pinyin import PinyinData
from lightrail.datamodules.typed.lattice import TypingConfig, typed_lattice
from lightrail.lightning_modules.networks.ngrams.tables import NgramTables
from lightrail.lightning_modules.pinyin.fusion import PinyinFusion
from lightrail.lightning_modules.pinyin.lattice_search import LatticeSearch
from lightrail.lightning_modules.pinyin.ngram import PinyinNgram
from lightrail.project.basics.catalogue import ROOT
from lightrail.testing.contract import NetworkContract, decoded
from tests.support.tasks import pinyin


@pytest.fixture(scope="module")
def typing_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PinyinNgram | PinyinFusion]:
    """Return n-grams of a few sentences, and their fusion with a network of the same data."""
    folder = tmp_path_factory.mktemp("typing")
    sentences = ["我爱北京。", "我去西安。", "先去北京。", "方案好。", "你先说。", "我们去北京。"] * 3
    (folder / "train.txt").write_text("\n".join(f"{own}{number}" for number, own in enumerate(sentences)), "utf-8")
    data = [
        "--data=PinyinData",
        f"--data.path={folder}/train.txt",
        f"--data.validation_path={folder}/train.txt",
        f"--data.test_path={folder}/train.txt",
        "--data.split.drop_repeats=false",
    ]
    kept = {}
    for name, arguments in {"network": pinyin.CONVERTER, "ngrams": pinyin.NGRAM}.items():
        own = Given([*arguments, *data, "--trainer.max_epochs=1"])
        (folder / name).mkdir()
        own.fit(folder / name, keep=folder / name / "kept")
        kept[name] = max((folder / name / "kept").glob("*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))
    paths = [f"--model.first.path={kept['network']}", f"--model.second.path={kept['ngrams']}", "--model.weight=0.8"]
    both = Given(["--model=PinyinFusion", *paths, *data, "--trainer.max_steps=1"]).experiment(folder).model
    assert isinstance(both, PinyinFusion)
    return {"ngrams": PinyinNgram.load_from_checkpoint(kept["ngrams"]).eval(), "fusion": both.eval()}


class Given(NetworkContract):
    """Settings that a test gives."""

    __test__ = False

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def settings(self, folder: Path) -> list[str]:
        return self.arguments


@pytest.mark.parametrize("kind", ["ngrams", "fusion"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("woaibeijing", "我爱北京"),
        ("womenqubeijing.", "我们去北京."),
        ("fanganhao", "方案好"),
        ("nixianshuo", "你先说"),
        ("woquxian", "我去西安"),
        ("wo3 ai4bei3jing1", "我爱北京"),
        ("WoAiBeijing", "我爱北京"),
        ("wobj", "我北京"),
        ("qubjKTV", "去北京KTV"),
        ("xyz123", "xyz123"),
        ("woquLONDON", "我去LONDON"),
    ],
)
def test_cuts_and_characters_are_chosen_together(
    typing_models: dict[str, PinyinNgram | PinyinFusion], kind: str, typed: str, expected: str
) -> None:
    model = typing_models[kind]
    with torch.no_grad():
        found = model.read_typed(typed_lattice(typed, TypingConfig(initial_cost=1.0)).edges, 3)
    assert found[0].text == expected
    assert [own.log_probability for own in found] == sorted((own.log_probability for own in found), reverse=True)
    assert len({own.text for own in found}) == len(found)


def test_one_more_letter_computes_only_the_end_again(
    typing_models: dict[str, PinyinNgram | PinyinFusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = typing_models["ngrams"]
    search, text = model.lattice_search, "womenqubeijingxianquxianfangan"
    assert search is not None
    scored, lookup = list[Tensor](), NgramTables.forward

    def forward(own: NgramTables, context: Tensor, tokens: Tensor) -> Tensor:
        scored.append(tokens)
        return lookup(own, context, tokens)

    monkeypatch.setattr(NgramTables, "forward", forward)
    fresh = {size: read_alone(model, text[:size]) for size in (10, len(text))}
    costs = []
    for size in range(1, len(text) + 1):
        scored.clear()
        found = search.paths(typed_lattice(text[:size], TypingConfig()).edges, 3)
        costs.append(len(scored))
        assert size not in fresh or found == fresh[size]
    assert max(costs) <= 8
    assert max(costs[-5:]) <= max(costs[:15])


def read_alone(model: PinyinNgram | PinyinFusion, typed: str) -> list[Any]:
    """Return the readings of a text by a search that has seen no other."""
    assert isinstance(model, PinyinNgram)
    search = LatticeSearch(model.table, model.ngrams, model.hparams["vocabulary"], model.beams)
    return search.paths(typed_lattice(typed, TypingConfig()).edges, 3)


INPUTS = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|$", re.MULTILINE)


def test_the_inputs_of_the_guide_are_read_as_it_says(tmp_path: Path) -> None:
    """By n-grams of sentences that have the words of its table."""
    guide = ROOT / "docs" / "pinyin.md"
    inputs = INPUTS.findall(guide.read_text("utf-8").partition("## What may be typed")[2])
    assert len(inputs) == 20
    words = [
        "我爱北京",
        "我是女儿",
        "我去西安",
        "这个方案",
        "我们明天见",
        "你好世界",
        "在中国",
        "今年",
        "我喜欢你",
        "我们去",
    ]
    words += ["一会儿见", "今天天气真好", "明天你好", "女儿爱世界", "西安很好", "方案很好", "中国2026年", "女儿"]
    words += ["西安"]
    (tmp_path / "train.txt").write_text(
        "\n".join(f"{own}{end}" for own in words for end in ("，", "。", "！")), "utf-8"
    )
    paths = [f"--data.{name}={tmp_path}/train.txt" for name in ("path", "validation_path", "test_path")]
    own = Given([*pinyin.NGRAM, "--data=PinyinData", "--data.split.drop_repeats=false", *paths])
    own.fit(tmp_path, keep=tmp_path / "kept")
    model = PinyinNgram.load_from_checkpoint(next((tmp_path / "kept").glob("*.ckpt"))).eval()
    (tmp_path / "typed.txt").write_text("\n".join(typed for typed, _ in inputs), "utf-8")
    data = PinyinData(str(tmp_path / "typed.txt"), reading=ReadingConfig(empty="skip"))
    data.adopt(model.data_facts())
    data.setup("predict")
    batch = data.collate([row_for_batch(data.dataset("predict"), number) for number in range(len(inputs))])
    assert decoded(model, batch)["prediction"] == [expected for _, expected in inputs]
