"""The files by which sentence-transformers computes the vectors of a sentence encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightrail.lightning_modules.conversion.protocols import SentenceForm
from lightrail.project.exporting.tokenizer_files import tokenizer_of_data

USE_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
print(model.encode(["TEXT"]))"""
_TYPES = "sentence_transformers.models."
"""Where all versions of sentence-transformers find their modules, the later ones by another name too."""


def write_modules(form: SentenceForm, data: Mapping[str, Any], folder: Path) -> None:
    """Write the modules behind a model of transformers that the folder holds: its tokenizer, pooling and length."""
    settings = data["init_args"]
    _write(folder / "sentence_bert_config.json", {"max_seq_length": settings["max_length"], "do_lower_case": False})
    place = folder / "1_Pooling"
    place.mkdir()
    modes = {f"pooling_mode_{own}": own.startswith(form.pooling) for own in ("cls_token", "mean_tokens", "max_tokens")}
    _write(place / "config.json", {"word_embedding_dimension": form.width, **modes})
    _write_list(form, [("Transformer", ""), ("Pooling", "1_Pooling")], folder)


def write_table(form: SentenceForm, data: Mapping[str, Any], facts: Mapping[str, Any], folder: Path) -> None:
    """Write a table of vectors as a `StaticEmbedding`, with its tokenizer.

    Raises: ConfigError when the tokenizer cannot be one of the library tokenizers.
    """
    from safetensors.torch import save_file

    assert form.table is not None, "a network has files of its own"
    tokenizer_of_data(data, facts, "hf").save(str(folder / "tokenizer.json"))
    save_file({"embedding.weight": form.table.contiguous()}, folder / "model.safetensors", metadata={"format": "pt"})
    _write_list(form, [("StaticEmbedding", "")], folder)


def _write_list(form: SentenceForm, modules: list[tuple[str, str]], folder: Path) -> None:
    if form.is_unit:
        modules = [*modules, ("Normalize", f"{len(modules)}_Normalize")]
        (folder / modules[-1][1]).mkdir()
        _write(folder / modules[-1][1] / "config.json", {})
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": _TYPES + name}
        for number, (name, path) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    similarity = "cosine" if form.is_unit else "dot"
    _write(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": similarity})


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
