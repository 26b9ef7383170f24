"""What is exported for another library predicts there what `lightrail predict` predicts."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from lightrail.project.basics.errors import ConfigError
from lightrail.project.exporting import onnx_folder
from lightrail.project.exporting.writing import export
from lightrail.project.library.predictor import load
from lightrail.project.models.stored_model import stored_model
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.pretrained import write_tiny_bert, written
from tests.support.running import lightrail
from tests.support.tasks import entities, sentences, text_classification

STEPS = [
    *("--trainer.max_steps=12", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--data.batch.max_tokens=null", "--data.batch.size=4", "--tracking.uri=sqlite:///mlflow.db"),
    *("--trainer.log_every_n_steps=1", "--model.optim.lr=0.02"),
]
TRACKING = TrackingConfig(uri="sqlite:///mlflow.db")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def pretrained(kind: str, texts: Sequence[str]) -> list[str]:
    """The arguments of a tiny network of a type, with a tokenizer of these texts."""
    bert = write_tiny_bert(Path("bert"), texts)
    if kind != "bert":
        shutil.copytree(bert, kind)
        (Path(kind) / "model.safetensors").unlink()
        written(Path(kind), kind, **({"pad_token_id": 0} if kind == "roberta" else {}), vocab_size=200)
    return [
        *("--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={kind}", "--model.encoder.dropout=0"),
        f"--data.tokenizer={kind}",
    ]


def fitted(*arguments: str) -> str:
    outcome = lightrail("fit", *STEPS, *arguments)
    assert outcome.status == 0, outcome.err
    return outcome.run_id


def exported(run_id: str, export_format: Any, **more: Any) -> Path:
    export(stored_model(run_id, TRACKING), Path("out"), export_format, overwrite=True, **more)
    return Path("out")


def classifier(kind: str, *more: str) -> str:
    data = text_classification.write_texts(Path())
    texts = text_classification.TEXTS["train"]
    return fitted(*data, "--data.min_count=1", *pretrained(kind, texts), "--model.dropout=0", *more)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bert", ["--model.pooling=pretrained"]),
        ("roberta", ["--model.pooling=pretrained", "--model.encoder.lora={rank: 2}"]),
        ("distilbert", ["--model.pooling=first"]),
    ],
)
def test_a_classifier_predicts_in_a_pipeline_of_transformers(kind: str, more: list[str]) -> None:
    run_id = classifier(kind, *more)
    texts = text_classification.TEXTS["test"]
    expected = load(run_id, tracking_uri=TRACKING.uri)(texts)
    folder = exported(run_id, "hf")
    pipe = pipeline("text-classification", str(folder))
    for row, found in zip(expected, pipe(texts, top_k=None, truncation=True), strict=True):
        assert found[0]["label"] == row["prediction"]
        shares = {own["label"]: own["score"] for own in found}
        assert [shares["+"], shares["-"]] == pytest.approx([row["probabilities"][own] for own in "+-"], abs=1e-5)
    assert 'pipeline("text-classification", "out")' in (folder / "README.md").read_text("utf-8")


def test_probabilities_of_many_labels_are_those_of_the_pipeline() -> None:
    for split, texts in text_classification.TEXTS.items():
        rows = [f"{text},{'|'.join(own for own in ('good', 'so', 'day') if own in text.split())}" for text in texts]
        Path(f"{split}.csv").write_text("\n".join(["text,label", *(row.replace(" , ", " ") for row in rows)]))
    paths = ["--data.path=train.csv", "--data.validation_path=validation.csv", "--data.test_path=test.csv"]
    texts = [own.replace(" , ", " ") for own in text_classification.TEXTS["test"]]
    named = ["--model=TextClassifier", "--data=TextClassificationData", "--data.has_many_labels=true"]
    run_id = fitted(*named, *paths, *pretrained("bert", texts), "--model.pooling=pretrained")
    expected = load(run_id, tracking_uri=TRACKING.uri)(texts)
    for row, found in zip(
        expected, pipeline("text-classification", str(exported(run_id, "hf")))(texts, top_k=None), strict=True
    ):
        assert {own["label"]: own["score"] for own in found} == pytest.approx(row["probabilities"], abs=1e-5)


def test_a_pooling_that_transformers_lacks_is_refused() -> None:
    run_id = classifier("bert", "--model.pooling=mean")
    with pytest.raises(
        ConfigError, match=r"pool the states of bert by layers .* MeanPooling lacks. Train with --model"
    ):
        exported(run_id, "hf")
    assert not Path("out").exists()


def tagger(*more: str) -> str:
    data = entities.write_entities(Path())
    return fitted(*data, "--model.dropout=0", *pretrained("bert", entities.TEXTS["train"]), *more)


def test_a_tagger_finds_the_same_entities_in_a_pipeline() -> None:
    run_id = tagger("--model.head=SoftmaxConfig", "--trainer.max_steps=120", "--model.optim.lr=0.01")
    texts = entities.TEXTS["train"]
    expected = load(run_id, tracking_uri=TRACKING.uri)(texts)
    pipe = pipeline("ner", str(exported(run_id, "hf")), aggregation_strategy="first")
    found = [[(own["start"], own["end"], own["entity_group"]) for own in row] for row in pipe(texts)]
    assert found == [[(own["start"], own["end"], own["type"]) for own in row["entities"]] for row in expected]
    assert sum(map(len, found)) >= 8


def test_a_head_that_transformers_lacks_is_refused_and_its_emissions_are_exported() -> None:
    run_id = tagger("--model.head=CrfConfig")
    with pytest.raises(
        ConfigError, match=r"chooses by what is around. Use --format .* train with --model.head=Softmax"
    ):
        exported(run_id, "hf")
    (outputs,) = run_onnx(exported(run_id, "onnx"), ["anna lives in paris"])
    assert outputs.shape == (1, 4, 13)


def sentence_encoder(*more: str) -> str:
    return fitted(*sentences.write_pairs(Path()), "--data.score_column=score", *more)


SENTENCES = ["a cat sleeps", "The dog, running!", "it rains"]


@pytest.mark.parametrize("pooling", ["mean", "first", "max"])
def test_a_sentence_encoder_gives_the_same_vectors_in_sentence_transformers(pooling: str) -> None:
    st = pytest.importorskip("sentence_transformers")
    texts = [text for pair in sentences.PAIRS["train"] for text in pair]
    similarity = "dot" if pooling == "max" else "cosine"
    more = [f"--model.pooling={pooling}", f"--model.similarity={similarity}", "--data.max_length=4"]
    run_id = sentence_encoder(*pretrained("distilbert" if pooling == "first" else "bert", texts), *more)
    check_vectors(st, run_id)
    assert st.SentenceTransformer("out", device="cpu").similarity_fn_name == similarity


@pytest.mark.parametrize("tokenizer", ["words", "characters", "subwords"])
def test_a_table_of_vectors_is_a_static_embedding(tokenizer: str) -> None:
    st = pytest.importorskip("sentence_transformers")
    table = ["--model.encoder=StaticConfig", "--model.encoder.width=8"]
    run_id = sentence_encoder(*table, f"--data.tokenizer={tokenizer}", "--data.max_length=4", "--data.truncation=tail")
    check_vectors(st, run_id)


def check_vectors(st: Any, run_id: str) -> None:
    expected = [row["vector"] for row in load(run_id, tracking_uri=TRACKING.uri)(SENTENCES)]
    model = st.SentenceTransformer(str(exported(run_id, "hf")), device="cpu")
    vectors = model.encode(SENTENCES)
    assert model.get_embedding_dimension() == len(expected[0])  # whatever the network calls its width
    np.testing.assert_allclose(vectors, np.array(expected, np.float32), atol=1e-6)


def test_n_grams_are_no_table() -> None:
    run_id = sentence_encoder("--model.encoder=StaticConfig", "--model.encoder.ngram_orders=[2]")
    with pytest.raises(ConfigError, match=r"this encoder adds those of ngrams. Use --format safetensors"):
        exported(run_id, "hf")


def run_onnx(folder: Path, texts: Sequence[str]) -> Any:
    """Run an exported network as its card does."""
    import onnxruntime
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    inputs = {"input_ids": [own.ids for own in encoded], "attention_mask": [own.attention_mask for own in encoded]}
    return session.run(None, {name: np.array(own, np.int64) for name, own in inputs.items()})


ENCODERS = {
    "transformer": ["TransformerConfig", "width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64"],
    "cnn": ["TextCnnConfig", "width=16", "num_filters=4"],
    "static": ["StaticConfig", "width=8"],
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_onnxruntime_gives_the_probabilities_of_predict(encoder: str) -> None:
    pytest.importorskip("onnxruntime")
    name, *sizes = ENCODERS[encoder]
    network = [f"--model.encoder={name}", *(f"--model.encoder.{size}" for size in sizes), "--data.tokenizer=words"]
    run_id = fitted(*text_classification.write_texts(Path()), "--data.min_count=1", *network)
    texts = text_classification.TEXTS["test"]
    expected = load(run_id, tracking_uri=TRACKING.uri)(texts)
    folder = exported(run_id, "onnx")
    check_probabilities(folder, texts, expected)
    assert 'Tokenizer.from_file("out/tokenizer.json")' in (folder / "README.md").read_text("utf-8")
    if encoder == "transformer":
        card = (exported(run_id, "onnx", quantize=True) / "README.md").read_text("utf-8")
        assert "Weights are 8-bit integers" in card
        code = card.partition("```python\n")[2].partition("```")[0]
        exec(compile(code, "README.md", "exec"), {})


def test_a_pretrained_pair_classifier_answers_in_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    texts = text_classification.TEXTS["train"]
    for split, own in text_classification.TEXTS.items():
        rows = [f"{text.replace(' , ', ' ')},so it is,{'+' if 'good' in text else '-'}" for text in own]
        Path(f"{split}.csv").write_text("\n".join(["text,pair,label", *rows]))
    paths = ["--data.path=train.csv", "--data.validation_path=validation.csv", "--data.test_path=test.csv"]
    named = ["--model=TextClassifier", "--data=TextClassificationData", "--data.pair_column=pair"]
    run_id = fitted(*named, *paths, *pretrained("bert", texts), "--model.pooling=pretrained")
    questions: list[dict[str, str]] = [
        {"text": "good day", "pair": "so it is"},
        {"text": "bad", "pair": "it is fine film"},
    ]
    expected = load(run_id, tracking_uri=TRACKING.uri)(questions)
    pairs = [{"text": row["text"], "text_pair": row["pair"]} for row in questions]
    found = pipeline("text-classification", str(exported(run_id, "hf")))(pairs, top_k=None)
    for row, own in zip(expected, found, strict=True):
        assert {each["label"]: each["score"] for each in own} == pytest.approx(row["probabilities"], abs=1e-5)
    import onnxruntime
    from tokenizers import Tokenizer

    folder = exported(run_id, "onnx")
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch([(*row.values(),) for row in questions])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    held = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {
        name: np.array([getattr(own, held[name]) for own in encoded], np.int64)
        for name in [own.name for own in session.get_inputs()]
    }
    (logits,) = session.run(None, inputs)
    shares = torch.from_numpy(logits).softmax(-1).tolist()
    assert [dict(zip("+-", own, strict=True)) for own in shares] == [
        pytest.approx(row["probabilities"], abs=1e-4) for row in expected
    ]


def check_probabilities(folder: Path, texts: Sequence[str], expected: Sequence[dict[str, Any]]) -> None:
    (logits,) = run_onnx(folder, texts)
    shares = torch.from_numpy(logits).softmax(-1).tolist()
    for row, own in zip(expected, shares, strict=True):
        assert dict(zip("+-", own, strict=True)) == pytest.approx(row["probabilities"], abs=1e-4)


def test_what_onnx_cannot_hold_is_refused() -> None:
    data = text_classification.write_texts(Path())
    network = ["--model.encoder=LstmConfig", "--model.encoder.width=8", "--data.tokenizer=words"]
    run_id = fitted(*data, "--data.min_count=1", *network)
    with pytest.raises(
        ConfigError, match=r"LstmEncoder has an LSTM, .* Use --format safetensors, or train with another"
    ):
        exported(run_id, "onnx")
    refused = lightrail("export", run_id, "--output=other", "--quantize=int8", "--tracking.uri=sqlite:///mlflow.db")
    assert (refused.status, "--quantize is for --format onnx" in refused.err) == (2, True)


def test_without_its_packages_onnx_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightrail.project.exporting.onnx_folder.PACKAGES", ("onnx", "not_there"))
    with pytest.raises(ConfigError, match=r"^--format onnx needs not_there. Install: pip install not_there.$"):
        onnx_folder.check_packages()
