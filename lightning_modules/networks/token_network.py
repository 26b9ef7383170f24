"""What networks that read token ids have in common: the limits of what they can read."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightrail.lightning_modules.networks.documents import document_positions
from lightrail.lightning_modules.networks.row_names import AllOrNothing, Names, RowNames
from lightrail.project.basics.errors import ConfigError, shown


class TokenNetwork(nn.Module, ABC):
    """A network that reads token ids."""

    config: Any
    """Settings that rebuild this network; a checkpoint then provides the weights."""
    max_length: int | None = None
    """Most positions of a text; None: no limit."""
    num_vectors: int | None = None
    """Token ids that have a vector, where these may be fewer than a tokenizer's; None: as many as the data's."""
    own_tokens: Mapping[str, int] | None = None
    """Ids of the tokens that pretrained weights were trained with; None: not known, or trained with the data's."""
    shorter = "Set data.max_length to at most that, or name a network that reads more."
    """How to fix a text that is too long, for messages."""

    def input_embedding(self) -> nn.Module:
        """Return the part whose output, [B, T, D], is what the rest reads of tokens, whose ids it takes first.

        Raises: ConfigError when the network does not say which part that is.
        """
        embedding = dict(self.named_children()).get("embedding")
        if embedding is None:
            raise ConfigError(
                f"{type(self).__name__} has no part `embedding`, so that nothing can be attributed to its tokens. "
                "Override input_embedding."
            )
        return embedding

    def token_tables(self) -> Mapping[str, str] | None:
        """Return the parameters with a row for each token id, and whose tokens these are: `source` or `target`.

        Those of a network with one tokenizer are the target's. None: not known.
        """
        return None

    def rows_of_tokens(self, **tokens: Names) -> Mapping[str, RowNames]:
        """Return what the rows of parameters stand for, given the tokens by id of `source` and `target`.

        Where the network does not know its tables, each parameter is one of these tokens alone.
        """
        tables = self.token_tables()
        if tables is None:
            meaning = AllOrNothing(tuple(tokens.values()))
            return {name: meaning for name, _ in self.named_parameters()}
        held, rows = self.state_dict(keep_vars=True), dict[str, RowNames]()
        for name, side in tables.items():
            dimension = held[name].ndim - 1 if len(held[name]) == 1 else 0  # a bias may be [1, V]
            size, own = held[name].shape[dimension], tokens[side]
            rows[name] = (*[None] * dimension, (*own[:size], *range(len(own), size)))
        return rows

    def check_length(self, input_ids: Tensor, document_ids: Tensor | None = None, num_read: int = 0) -> None:
        """Refuse more positions than the network has; `num_read` of a row were read before.

        Raises: ConfigError naming both numbers.
        """
        length = num_read + input_ids.shape[1]
        if self.max_length is None or length <= self.max_length:
            return
        if document_ids is not None:
            length = int(document_positions(document_ids).max()) + 1
        if length > self.max_length:
            raise ConfigError(
                f"a text of {length} tokens was given to a network that reads {self.max_length} "
                f"({type(self.config).__name__}). {self.shorter}"
            )

    def check_ids(self, largest: int) -> None:
        """Refuse token ids up to `largest` when some have no vector. Raises: ConfigError."""
        if self.num_vectors is not None and largest >= self.num_vectors:
            raise ConfigError(
                f"the data has token ids up to {largest}, and the pretrained network {self.num_vectors} vectors. "
                "Name the checkpoint's own tokenizer in data.tokenizer; where tokens were added to it, save "
                "tokenizer and network in one folder."
            )

    def check_tokens(self, tokens: Mapping[str, int]) -> None:
        """Refuse the token ids of a tokenizer whose tokens have other ids than those the weights were trained with.

        A tokenizer may have further tokens, or other names for those that it does not share.

        Raises: ConfigError with an example.
        """
        own = self.own_tokens
        if own is None:
            return
        shared = tokens.keys() & own.keys()
        moved = [token for token in shared if tokens[token] != own[token]]
        if shared and len(moved) <= len(shared) / 100:
            return
        example = min(moved, key=own.__getitem__, default=None)
        found = "none of its tokens"
        if example is not None:
            found = f"{len(moved)} of {len(shared)} tokens with other ids ({shown(example, 30)}: {tokens[example]}, not"
            found = f"{found} {own[example]})"
        raise ConfigError(
            f"the data's tokenizer has {len(tokens)} tokens, and is not the pretrained network's: it has {found}. "
            "Name the checkpoint's own tokenizer in data.tokenizer."
        )
