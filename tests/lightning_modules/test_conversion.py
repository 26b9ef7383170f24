"""Networks of tasks as those of other libraries: for every architecture, or refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightrail.lightning_modules.entities import EntityTagger
from lightrail.lightning_modules.image_classification import ImageClassifier
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.tagging.tag_head import SoftmaxConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError
from lightrail.project.exporting.onnx_folder import write_onnx
from tests.support.pretrained import ARCHITECTURES, IDS, IS_TOKEN, written

LABELS = ["a", "b", "c"]
LINEAR_IN_THE_FIRST_STATE = {"distilbert", "electra", "deberta-v2"}


def classifier(folder: Path, name: str, pooling: Any) -> TextClassifier:
    encoder = PretrainedConfig(checkpoint=written(folder, name))
    task = TextClassifier([], LABELS, [1, 1, 1], encoder=encoder, pooling=pooling).eval()
    task.head.temperature.fill_(0.5)
    return task


@torch.no_grad()
def check(task: TextClassifier, model: Any) -> None:
    inputs = {"input_ids": IDS, "attention_mask": IS_TOKEN.long()}
    torch.testing.assert_close(model(**inputs).logits, task.logits(**inputs), rtol=1e-4, atol=1e-5)
    assert model.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_classifier_with_the_pooling_of_its_architecture_is_one_of_transformers(tmp_path: Path, name: str) -> None:
    task = classifier(tmp_path, name, "pretrained")
    model = task.to_transformers()
    assert type(model).__name__.endswith("ForSequenceClassification")
    check(task, model)
    task.train()
    task({"input_ids": IDS, "attention_mask": IS_TOKEN, "id": [0, 1]}).square().sum().backward()
    assert [name for name, weight in task.named_parameters() if weight.requires_grad and weight.grad is None] == []
    again = TextClassifier(**task.hparams).eval()
    again.load_state_dict(task.state_dict())
    inputs = {"input_ids": IDS, "attention_mask": IS_TOKEN}
    assert torch.equal(again.logits(**inputs), task.eval().logits(**inputs))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_state_is_enough_where_the_architecture_can_be_linear_in_it(tmp_path: Path, name: str) -> None:
    task = classifier(tmp_path, name, "first")
    if name in LINEAR_IN_THE_FIRST_STATE:
        check(task, task.to_transformers())
    else:
        with pytest.raises(ConfigError, match=f"pool the states of {name} by layers of their own, which FirstPooling"):
            task.to_transformers()


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_tagger_is_one_of_transformers_where_that_is_linear(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name))
    task = EntityTagger([], ["PER", "LOC"], False, encoder=encoder, head=SoftmaxConfig()).eval()
    if name == "modernbert":
        with pytest.raises(ConfigError, match=r"the tagger of type 'modernbert' in transformers has further layers"):
            task.to_transformers()
        return
    model, inputs = task.to_transformers(), {"input_ids": IDS, "attention_mask": IS_TOKEN.long()}
    torch.testing.assert_close(model(**inputs).logits[IS_TOKEN], task.logits(**inputs)[IS_TOKEN], rtol=1e-4, atol=1e-5)
    assert list(model.config.id2label.values())[:5] == ["O", "B-PER", "I-PER", "I-PER", "B-PER"]


def test_weights_of_a_classifier_that_was_trained_before_are_kept(tmp_path: Path) -> None:
    written(tmp_path / "plain", "roberta")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    model.classifier.dense.weight.data.fill_(0.25)
    model.save_pretrained(tmp_path / "tuned")
    encoder = PretrainedConfig(checkpoint=str(tmp_path / "tuned"))
    task = TextClassifier([], LABELS, [1, 1, 1], encoder=encoder, pooling="pretrained")
    assert torch.equal(task.state_dict()["pooling.model.classifier.dense.weight"], torch.full((8, 8), 0.25))


def test_a_network_from_scratch_has_no_pretrained_pooling() -> None:
    with pytest.raises(ConfigError, match=r"TransformerConfig has no pooling that was trained before. Set it to mean"):
        TextClassifier(["a"], LABELS, [1, 1, 1], pooling="pretrained")


@torch.no_grad()
def test_a_classifier_of_images_is_onnx_for_any_number_of_them(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs lightrail[onnx]")
    task = ImageClassifier(LABELS, [1, 1, 1], [1, 8, 8], [0.5], [0.25]).eval()
    task.head.temperature.fill_(0.5)
    write_onnx(task, {"class_path": "ImageClassificationData", "init_args": {}}, tmp_path, quantize=False)
    pixels = torch.arange(5 * 64).view(5, 1, 8, 8) % 256
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(None, {"pixels": pixels.float().numpy()})
    expected = task({"pixels": pixels}) / 0.5
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
