"""The text classifier keeps the contract with the other networks from scratch, and begins with pretrained vectors."""

from pathlib import Path

from lightrail.testing.contract import NetworkContract
from tests.support.tasks.text_classification import write_texts

WORDS = ["--data.tokenizer=words", "--data.min_count=1"]


def write_vectors(folder: Path) -> str:
    words = ["good", "bad", "so", "it", "is", "fine", "film", "dull"]
    lines = [f"{word} {number / 8} {number % 3} {number % 2} 0.5" for number, word in enumerate(words)]
    (folder / "vectors.txt").write_text("\n".join(lines))
    return f"--model.encoder.vectors.path={folder}/vectors.txt"


class TestLstmWithAttentionPooling(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        sizes = ["width=16", "depth=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
        network = ["--model.encoder=LstmConfig", *(f"--model.encoder.{size}" for size in sizes)]
        return [*write_texts(folder), *WORDS, *network, "--model.pooling=attention", write_vectors(folder)]

    def without_dropout(self) -> list[str]:
        return [*super().without_dropout(), "--model.dropout=0"]


class TestTextCnn(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        sizes = ["width=12", "filter_widths=[2,3]", "num_filters=8"]
        network = ["--model.encoder=TextCnnConfig", *(f"--model.encoder.{size}" for size in sizes)]
        return [*write_texts(folder), *WORDS, *network, "--model.pooling=max"]

    def without_dropout(self) -> list[str]:
        return [*super().without_dropout(), "--model.dropout=0"]
