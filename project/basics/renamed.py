"""Names that version 0.1.0 stored, and what they are called now.

Configurations, checkpoints and exports hold paths of classes. They are read for ever: what is moved is added here.
"""

from collections.abc import Mapping
from typing import Any

FIRST_FOLDERS = ("datamodules.", "lightning_modules.", "sweeps.")
"""What paths of 0.1.0 began with; they are parts of the package `lightrail` now."""
MOVED = {
    "datamodules.aligning": "datamodules.spans.aligning",
    "datamodules.batching": "datamodules.batches.batching",
    "datamodules.blocks": "datamodules.batches.blocks",
    "datamodules.cache.layout": "datamodules.cache.reading",
    "datamodules.collating": "datamodules.batches.batching",
    "datamodules.dialogues": "datamodules.tokens.dialogues",
    "datamodules.embedded": "datamodules.reading.embedded",
    "datamodules.encoded": "datamodules.cache.encoded",
    "datamodules.entity_batches": "datamodules.spans.entity_batches",
    "datamodules.entity_records": "datamodules.spans.entity_records",
    "datamodules.language_tokenizers.numbering": "datamodules.tokens.numbering",
    "datamodules.packing": "datamodules.batches.packing",
    "datamodules.sampling": "datamodules.batches.sampling",
    "datamodules.splitting": "datamodules.cache.splitting",
    "datamodules.subwords": "datamodules.tokens.tokenizing",
    "datamodules.tag_schemes": "datamodules.spans.tag_schemes",
    "datamodules.tokenizing": "datamodules.tokens.tokenizing",
    "datamodules.truncating": "datamodules.tokens.truncating",
    "datamodules.units": "datamodules.tokens.units",
    "lightning_modules.metrics.labels": "lightning_modules.metrics.label_scores",
    "lightning_modules.networks.compiling": "lightning_modules.base",
    "lightning_modules.networks.convolutional": "lightning_modules.networks.encoders.convolutional",
    "lightning_modules.networks.crf": "lightning_modules.networks.tagging.crf",
    "lightning_modules.networks.decoder": "lightning_modules.networks.decoders.decoder",
    "lightning_modules.networks.embedding": "lightning_modules.networks.encoders.embedding",
    "lightning_modules.networks.encoder": "lightning_modules.networks.encoders.encoder",
    "lightning_modules.networks.entity_head": "lightning_modules.networks.tagging.entity_head",
    "lightning_modules.networks.label_head": "lightning_modules.label_head",
    "lightning_modules.networks.ngrams": "lightning_modules.networks.encoders.ngrams",
    "lightning_modules.networks.plain_decoder": "lightning_modules.networks.decoders.plain_decoder",
    "lightning_modules.networks.pooling": "lightning_modules.networks.encoders.pooling",
    "lightning_modules.networks.pretrained": "lightning_modules.networks.encoders.pretrained",
    "lightning_modules.networks.pretrained_decoder": "lightning_modules.networks.decoders.pretrained_decoder",
    "lightning_modules.networks.probing": "lightning_modules.networks.decoders.probing",
    "lightning_modules.networks.recurrent": "lightning_modules.networks.encoders.recurrent",
    "lightning_modules.networks.span_head": "lightning_modules.networks.tagging.span_head",
    "lightning_modules.networks.tag_head": "lightning_modules.networks.tagging.tag_head",
    "lightning_modules.networks.tag_schemes": "lightning_modules.networks.tagging.tag_schemes",
    "lightning_modules.networks.token_dropout": "lightning_modules.networks.encoders.embedding",
    "lightning_modules.networks.transformer": "lightning_modules.networks.encoders.transformer",
    "lightning_modules.networks.transformer_decoder": "lightning_modules.networks.decoders.transformer_decoder",
    "lightning_modules.networks.vectors": "lightning_modules.networks.encoders.vectors",
}
"""Modules of 0.1.0 to their names within `lightrail`, where these are others."""
NAMES = ("class_path", "task")
"""Keys under which a class is named."""


def current_path(path: str) -> str:
    """Restate the path of a class of 0.1.0; any other path stays as it is.

    >>> current_path("lightning_modules.networks.recurrent.LstmConfig")
    'lightrail.lightning_modules.networks.encoders.recurrent.LstmConfig'
    """
    if not path.startswith(FIRST_FOLDERS):
        return path
    module, _, name = path.rpartition(".")
    return f"lightrail.{MOVED.get(module, module)}.{name}"


def with_current_paths(value: Any) -> Any:
    """Copy something that was stored, with the class paths in it restated."""
    if isinstance(value, Mapping):
        return {
            key: current_path(item) if key in NAMES and isinstance(item, str) else with_current_paths(item)
            for key, item in value.items()
        }
    return [with_current_paths(item) for item in value] if isinstance(value, list) else value
