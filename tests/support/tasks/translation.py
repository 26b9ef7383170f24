"""A tiny translation task: short words in upper case, in the opposite order."""

import json
from pathlib import Path

TRANSFORMER = [
    "--model.network=lightrail.lightning_modules.networks.seq2seq.transformer.TransformerSeq2SeqConfig",
    "--model.network.width=32",
    "--model.network.encoder_depth=1",
    "--model.network.decoder_depth=1",
    "--model.network.num_heads=2",
]
RECURRENT = [
    "--model.network=lightrail.lightning_modules.networks.seq2seq.recurrent.RecurrentSeq2SeqConfig",
    "--model.network.width=64",
]
WORDS = ["ab", "c", "d", "ef", "g"]


def pair(number: int) -> tuple[str, str]:
    """Return a source of 1 to 3 different words, and its target."""
    words = [WORDS[(number + 2 * step) % len(WORDS)] for step in range(1, 2 + number % 3)]
    return " ".join(words), "".join(word.upper() for word in reversed(words))


def write(folder: Path, name: str, numbers: range) -> Path:
    """Write pairs as JSON Lines."""
    path = folder / f"{name}.jsonl"
    rows = (dict(zip(("source", "target"), pair(number), strict=True)) for number in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def settings(folder: Path, network: list[str] = TRANSFORMER) -> list[str]:
    """Return arguments for 8 training rows, 5 validation rows and 11 test rows."""
    return [
        "--model=lightrail.lightning_modules.translation.Translation",
        "--data=lightrail.datamodules.translation.TranslationData",
        f"--data.path={write(folder, 'train', range(8))}",
        f"--data.validation_path={write(folder, 'validation', range(2, 7))}",
        f"--data.test_path={write(folder, 'test', range(3, 14))}",
        "--data.tokenizer=characters",
        "--data.min_count=1",
        "--model.decoding.num_beams=2",
        "--model.validation_beams=2",
        "--model.decoding.max_tokens=16",
        *network,
        "--model.network.dropout=0.05",
        "--model.network.is_tied=false",
        "--model.label_smoothing=0",
    ]
