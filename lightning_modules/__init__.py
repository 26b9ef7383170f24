"""Tasks: what is learned, how, and how it is scored."""

from lightning_modules.base import TaskModule
from lightning_modules.networks.encoder import EncoderConfig
from lightning_modules.networks.pretrained import PretrainedConfig
from lightning_modules.networks.transformer import TransformerConfig
from lightning_modules.optimization import OptimConfig
from lightning_modules.pinyin import PinyinTagger
from lightning_modules.text_classification import TextClassifier

__all__ = [
    "EncoderConfig",
    "OptimConfig",
    "PinyinTagger",
    "PretrainedConfig",
    "TaskModule",
    "TextClassifier",
    "TransformerConfig",
]
