"""Networks of transformers: from a folder, from the hub, or from their architecture alone.

Settings are named in messages as those of a `section` of the model, `encoder` or `decoder`.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.logs import without_warning
from lightrail.project.basics.reading import from_hub
from lightrail.project.basics.tokens.tokenizing import HINT_OF_MARIAN

if TYPE_CHECKING:
    from transformers import PretrainedConfig as Architecture
    from transformers import PreTrainedModel

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT and its relatives
    *("dropout", "attention_dropout", "hidden_dropout", "activation_dropout"),  # DistilBERT, Funnel, BART, Llama
    *("embedding_dropout", "mlp_dropout"),  # ModernBERT
    *("embd_pdrop", "resid_pdrop", "attn_pdrop", "dropout_rate"),  # GPT-2, T5
)
"""Names that architectures give their dropout of hidden states and attention."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
_FIX = "Name a model of the Hugging Face hub, or a folder with config.json and model.safetensors."
_MOST_LAYERS = 10_000
_NUMBER = re.compile(r"\d+")
_MOST_MEMORIES = 4
"""Multiple of the machine's memory that weights may take; some of it may be on disk."""
NUM_PROBED = 8
"""Positions of a trial."""
log = logging.getLogger(__name__)


def from_architecture(auto: Any, architecture: Mapping[str, Any]) -> "PreTrainedModel":
    """Build a network with fresh weights in float32; `auto` is its class of transformers, such as AutoModel.

    Raises: ConfigError for sizes that no machine holds; whatever transformers raises about other settings.
    """
    from transformers import AutoConfig

    settings = dict(architecture)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    _check_layers(config)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        num_bytes = 4 * sum(weight.numel() for weight in auto.from_config(config, dtype=torch.float32).parameters())
    if num_bytes > _MOST_MEMORIES * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ConfigError(
            f"the architecture {shown(dict(architecture), 200)} has {num_bytes:,} bytes of weights, far more than this "
            "machine's memory. Choose smaller sizes."
        )
    model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    return model


def from_checkpoint(
    auto: Any,
    checkpoint: str,
    revision: str | None,
    dropout: float | None,
    *,
    section: str,
    unused: str = "pooler",
    **more: Any,
) -> tuple["PreTrainedModel", dict[str, int] | None]:
    """Load a pretrained network with its weights, in float32; `more` goes to transformers.

    Weights whose name has the pattern `unused` may be missing from its file.

    A token that was added to the checkpoint's own tokenizer, and not to the network, gets a fresh vector.

    Returns: the network, and the ids of the tokens of its own tokenizer; None where it has none that can be read.

    Raises: ConfigError when it cannot be loaded or has no dropout to set.
    """
    from transformers import AutoConfig  # here: a network from scratch should not wait for it

    what = f"{section}.checkpoint: {shown(checkpoint, 200)}"
    # Code of a checkpoint is never run: without a decision transformers asks for one on standard input.
    arguments = {"revision": revision, "trust_remote_code": False, **more}
    with from_hub(f"{section}.checkpoint", checkpoint, _FIX):
        settings = AutoConfig.from_pretrained(checkpoint, **arguments)
        _check_layers(settings)
        _set_dropout(settings, dropout, section)
        # float32 whatever the file holds: mixed precision is the trainer's to choose, and it wants full weights.
        model, found = auto.from_pretrained(
            checkpoint, config=settings, dtype=torch.float32, output_loading_info=True, **arguments
        )
    _check_found(model, found, what, unused)
    tokens = _own_tokens(checkpoint, revision)
    num_tokens = max(tokens.values(), default=-1) + 1 if tokens else 0
    if num_tokens > (num_vectors(model) or num_tokens):
        log.info("%s: the vectors of added tokens begin untrained, now %d in all", checkpoint, num_tokens)
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(num_tokens, mean_resizing=False)
    return model, tokens


def _check_found(model: "PreTrainedModel", found: Mapping[str, Any], what: str, unused_names: str) -> None:
    """Refuse a file that lacks most weights, or those of some layers; a head may be new. Raises: ConfigError."""
    missing = sorted(found["missing_keys"])
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if len(missing) > len(names) / 2:
        raise ConfigError(
            f"{what} cannot be loaded: {len(missing)} of its {len(names)} weights are not in the file, which holds "
            f"those of another network. {_FIX}"
        )
    loaded = {_NUMBER.sub("N", name) for name in names.difference(missing)}
    layers = [name for name in missing if _NUMBER.sub("N", name) in loaded]
    if layers:
        raise ConfigError(
            f"{what} cannot be loaded: {layers[0]} and {len(layers) - 1} further weights are not in the file, whose "
            f"other layers have theirs. Set the number of layers in config.json to the file's, or name another model."
        )
    loaded |= {name.removeprefix(f"{model.base_model_prefix}.") for name in loaded}  # a file without a head
    unused = [name for name in sorted(found["unexpected_keys"]) if _NUMBER.sub("N", name) in loaded]
    if unused:
        log.warning("%s: layers of the file that config.json leaves out are not used, such as %s", what, unused[0])
    if new := [name for name in missing if not re.search(unused_names, name)]:
        log.warning("%s begins with %d untrained weights, which its file lacks, such as %s", what, len(new), new[0])


def num_vectors(model: "PreTrainedModel") -> int | None:
    """Return how many token ids have a vector; None for a network that reads no tokens."""
    try:
        found: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None
    return found


def token_tables(model: "PreTrainedModel") -> list[str]:
    """Return the names of the tensors of a network with an entry for each token id."""
    if num_vectors(model) is None:
        return []
    tables = [part for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None]
    own = {id(tensor) for part in tables for tensor in part.parameters(recurse=False)}
    held = model.state_dict(keep_vars=True)
    return [name for name, tensor in held.items() if id(tensor) in own or name.endswith("final_logits_bias")]


class _Lookups(TorchFunctionMode):
    """Notes how many positions a table has of which vectors of consecutive numbers are looked up, the first of a row.

    Looks at the function, not at modules: a position table may be a layer with arguments of its own (OPT, RoFormer).
    """

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.embedding:
            ids, table = args[:2]
            rows = ids.reshape(-1, ids.shape[-1] if ids.ndim else 1)[:, :NUM_PROBED]  # [N, T]; some networks pad rows
            steps = torch.arange(NUM_PROBED, device=rows.device)
            if rows.shape[1] == NUM_PROBED and bool((rows == rows[0, 0] + steps).all()):
                self.limits.append(len(table) - int(rows[0, 0]))
        return function(*args, **(kwargs or {}))


def position_limit(model: "PreTrainedModel", read: Callable[[Tensor], Any]) -> int | None:
    """Return how many positions the network's tables of vectors by position have; None without such a table.

    Found by watching which table is asked for consecutive numbers; these may begin after 0 (RoBERTa).

    Args:
        read: runs the network on token ids, [1, T].
    """
    token = int(getattr(model.config, "pad_token_id", None) == 0)  # padding has no position in some networks
    with undisturbed(model), _Lookups() as lookups:
        read(torch.full((1, NUM_PROBED), token, device=model.device))
    return min(lookups.limits, default=None)


@contextmanager
def undisturbed(model: "PreTrainedModel") -> Iterator[None]:
    """Run a network in evaluation mode and full precision, and restore its modes."""
    with evaluating(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        yield


def switch_checkpointing(model: "PreTrainedModel", action: Literal["enable", "disable"], *arguments: Any) -> None:
    """Enable or disable the checkpointing of activations, which some release of transformers 5 renamed.

    Raises: ValueError when the network has none.
    """
    newer = getattr(model, f"activation_checkpointing_{action}", None)
    (newer or getattr(model, f"gradient_checkpointing_{action}"))(*arguments)


def _set_dropout(settings: "Architecture", dropout: float | None, section: str) -> None:
    names = [name for name in _DROPOUTS if hasattr(settings, name)]
    if dropout is None:
        return
    if not names:
        raise ConfigError(
            f"{section}.dropout: {settings.model_type} has no dropout of its own that could be set. "
            "Leave it out; the task's own dropout counts all the same."
        )
    for name in names:
        setattr(settings, name, dropout)


def _check_layers(settings: "Architecture") -> None:
    """Refuse a number of layers that is negative, or would take hours to build. Raises: ConfigError."""
    for name, value in vars(settings).items():
        is_number = name.startswith(("n_", "num_"))  # others count from the last layer
        if isinstance(value, int) and "layer" in name and (value > _MOST_LAYERS or (value < 0 and is_number)):
            raise ConfigError(f"{name} of {settings.model_type} is {shown(value)}. Give 0 to {_MOST_LAYERS}.")


def _own_tokens(checkpoint: str, revision: str | None) -> dict[str, int] | None:
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    try:
        # Without any of these files transformers makes up a tokenizer with special tokens alone.
        if not any(
            cached_file(checkpoint, name, revision=revision, _raise_exceptions_for_missing_entries=False)
            for name in _TOKENIZER_FILES
        ):
            return None
        with without_warning(HINT_OF_MARIAN):
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, revision=revision, trust_remote_code=False)
        tokens: dict[str, int] = tokenizer.get_vocab()
    except Exception as error:  # it may be damaged, a Python one, or need a package: the data's may be another
        log.debug("%s: no tokenizer (%s)", checkpoint, first_line(error))
        return None
    return tokens
