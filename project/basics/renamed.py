"""Current paths of classes that earlier versions stored by their old paths.

Configurations, checkpoints and exports contain class paths and stay readable: a class that is moved is added here. A
class of the user keeps its path, even in a package that is also called `datamodules`.
"""

from collections.abc import Mapping
from typing import Any

NETWORKS = "lightning_modules.networks"
STORED = {
    "datamodules.base": ("datamodules.settings", "ReadingConfig SplitConfig"),
    "datamodules.batching": ("datamodules.batches.batching", "BatchConfig"),
    "datamodules.blocks": ("datamodules.batches.blocks", "BlockConfig"),
    "datamodules.causal_lm": ("datamodules.causal_lm", "CausalLMData"),
    "datamodules.checking.findings": ("datamodules.checking.findings", "Remedies"),
    "datamodules.corpus.files": ("datamodules.corpus.files", "SourceConfig"),
    "datamodules.entities": ("datamodules.entities", "EntityData"),
    "datamodules.image_classification": ("datamodules.image_classification", "ImageClassificationData"),
    "datamodules.instructions": ("datamodules.instructions", "InstructionData"),
    "datamodules.pinyin": ("datamodules.pinyin", "PinyinData"),
    "datamodules.reading.rows": ("datamodules.reading.rows", "TaggedLines"),
    "datamodules.sampling": ("datamodules.batches.sampling", "SamplingConfig"),
    "datamodules.text_classification": ("datamodules.text_classification", "TextClassificationData"),
    "lightning_modules.causal_lm": ("lightning_modules.causal_lm", "CausalLM"),
    "lightning_modules.entities": ("lightning_modules.entities", "EntityTagger"),
    "lightning_modules.generation": (f"{NETWORKS}.decoders.generation", "GenerationConfig"),
    "lightning_modules.image_classification": ("lightning_modules.image_classification", "ImageClassifier"),
    "lightning_modules.label_loss": ("lightning_modules.heads.label_loss", "LabelLossConfig"),
    f"{NETWORKS}.adapters": (f"{NETWORKS}.adapters", "LoraConfig"),
    f"{NETWORKS}.augmentation": (f"{NETWORKS}.augmentation", "AugmentConfig"),
    f"{NETWORKS}.convolutional": (f"{NETWORKS}.encoders.convolutional", "TextCnnConfig"),
    f"{NETWORKS}.images": (f"{NETWORKS}.images", "ConvNetConfig MlpConfig"),
    f"{NETWORKS}.plain_decoder": (
        f"{NETWORKS}.decoders.plain_decoder",
        "PlainDecoderConfig",
    ),
    f"{NETWORKS}.pretrained": (f"{NETWORKS}.encoders.pretrained", "PretrainedConfig"),
    f"{NETWORKS}.pretrained_decoder": (
        f"{NETWORKS}.decoders.pretrained_decoder",
        "ArchitectureConfig PretrainedDecoderConfig",
    ),
    f"{NETWORKS}.recurrent": (f"{NETWORKS}.encoders.recurrent", "LstmConfig"),
    f"{NETWORKS}.span_head": (f"{NETWORKS}.tagging.span_head", "SpanConfig"),
    f"{NETWORKS}.tag_head": (f"{NETWORKS}.tagging.tag_head", "CrfConfig SoftmaxConfig"),
    f"{NETWORKS}.transformer": (f"{NETWORKS}.encoders.transformer", "TransformerConfig"),
    f"{NETWORKS}.transformer_decoder": (
        f"{NETWORKS}.decoders.transformer_decoder",
        "TransformerDecoderConfig",
    ),
    f"{NETWORKS}.vectors": (f"{NETWORKS}.encoders.vectors", "VectorsConfig"),
    "lightning_modules.optimization.config": ("lightning_modules.optimization.config", "OptimConfig"),
    "lightning_modules.pinyin": ("lightning_modules.pinyin.tagger", "PinyinTagger"),
    "lightning_modules.text_classification": ("lightning_modules.text_classification", "TextClassifier"),
    "lightrail.lightning_modules.pinyin": ("lightning_modules.pinyin.tagger", "PinyinTagger"),
    "lightrail.lightning_modules.pinyin.PinyinTranslator": ("lightning_modules.pinyin.translator", "PinyinTranslator"),
    "lightrail.lightning_modules.generation": (f"{NETWORKS}.decoders.generation", "GenerationConfig"),
}
"""Former modules, each with its current name within `lightrail` and its classes that could be stored; and classes that
moved elsewhere than others of their module, by their whole path."""
KEYS = ("class_path", "task")
"""Keys whose values are class paths."""


def current_path(path: str) -> str:
    """Return the current path of a class of an earlier version; other paths are returned unchanged.

    >>> current_path("lightning_modules.networks.recurrent.LstmConfig")
    'lightrail.lightning_modules.networks.encoders.recurrent.LstmConfig'
    >>> current_path("datamodules.mine.MyData")
    'datamodules.mine.MyData'
    """
    module, _, name = path.rpartition(".")
    now, names = STORED.get(path) or STORED.get(module, ("", ""))
    return f"lightrail.{now}.{name}" if name in names.split() else path


def with_current_paths(value: Any) -> Any:
    """Copy stored plain values, with former class paths replaced by current ones."""
    if isinstance(value, Mapping):
        return {
            key: current_path(item) if key in KEYS and isinstance(item, str) else with_current_paths(item)
            for key, item in value.items()
        }
    return [with_current_paths(item) for item in value] if isinstance(value, list) else value
