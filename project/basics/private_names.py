"""Private names of libraries. All uses of them are here, and each is covered by a test.

The version ranges in `pyproject.toml` end before the next version that may change them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl
    import optuna
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from optuna.trial import FrozenTrial, TrialState
    from sacrebleu.metrics.base import Metric
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _NormBase
    from transformers import PretrainedConfig


def is_accumulating(trainer: "pl.Trainer") -> bool:
    """Whether gradients are still accumulated after the last batch: it ended no optimizer step (Lightning 2.6)."""
    return bool(trainer.fit_loop.epoch_loop._should_accumulate())


def is_epoch_over(trainer: "pl.Trainer") -> bool:
    """Whether the last batch was the last of its epoch (Lightning 2.6)."""
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())


def is_validation_due(trainer: "pl.Trainer") -> bool:
    """Whether a validation follows the last batch (Lightning 2.6)."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "training has begun"
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))


def end_restart(trainer: "pl.Trainer") -> None:
    """Have the rest of a resumed epoch end like any other (Lightning 2.6)."""
    # Its own property cannot: where max_steps is set, it stays true.
    trainer.fit_loop._restarting = False


def begin_epoch_afresh(trainer: "pl.Trainer") -> None:
    """Have a training that is resumed between two epochs begin the next one like any other (Lightning 2.6)."""
    # Else it takes the beginning for a validation that is over, where validations are counted in batches, and counts
    # a step that was not trained.
    loop = trainer.fit_loop
    if loop.epoch_loop.batch_progress.current.ready == 0:
        loop._restarting = loop.epoch_loop.restarting = False


def validation_seconds(trainer: "pl.Trainer") -> float | None:
    """Return the seconds between validations; None when they are counted in batches (Lightning 2.6)."""
    seconds: float | None = trainer._val_check_time_interval  # type: ignore[attr-defined]
    return seconds


def combination_mode(loaders: Any) -> Any:
    """Return how loaders are combined: that of a CombinedLoader, else what Lightning chooses itself (Lightning 2.6)."""
    return getattr(loaders, "_mode", "max_size_cycle")


def loss_scale(trainer: "pl.Trainer") -> "Tensor | None":
    """Return the factor of the loss in float16 training, without waiting; None in other formats (torch 2.13)."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler._scale


def set_default_root(trainer: "pl.Trainer", folder: Path) -> None:
    """Change the folder in which a trainer looks for its own checkpoints (Lightning 2.6)."""
    trainer._default_root_dir = str(folder)  # type: ignore[attr-defined]


def signature_parameters(target: type) -> list[Any]:
    """Return the arguments of a class, `**kwargs` resolved, with annotation, default and text (jsonargparse 4.53)."""
    from jsonargparse._parameter_resolvers import get_signature_parameters

    return list(get_signature_parameters(target))


def tracking_store(client: "MlflowClient") -> Any:
    """Return the store behind a client, which can reopen an ended run and be closed (MLflow 3.17)."""
    return client._tracking_client.store


def use_adapter(adapter: type) -> None:
    """Have all later HTTP requests of MLflow sent by an adapter of `requests` (MLflow 3.17)."""
    from mlflow.utils import request_utils

    if request_utils.TCPKeepAliveHTTPAdapter is not adapter:
        request_utils.TCPKeepAliveHTTPAdapter = adapter
        request_utils._cached_get_request_session.cache_clear()


def download_file(artifacts: "ArtifactRepository", name: str, target: Path) -> None:
    """Download one file of an artifact store (MLflow 3.17).

    `download_artifacts` would ask whether it is a folder, and follow a server into folders without end.
    """
    artifacts._download_file(name, str(target))


def end_trial(study: "optuna.Study", trial: "FrozenTrial", state: "TrialState") -> None:
    """End a trial of another process (Optuna 5.0).

    Raises: optuna.exceptions.UpdateFinishedTrialError when the trial has already ended.
    """
    study._storage.set_trial_state_values(trial._trial_id, state)


def start_at_once(sampler: "optuna.samplers.BaseSampler") -> None:
    """Let a sampler that begins with random trials use its own method from the second trial on (Optuna 5.0)."""
    if isinstance(getattr(sampler, "_n_startup_trials", None), int):
        sampler._n_startup_trials = 1  # type: ignore[attr-defined]


def attention_kind(config: "PretrainedConfig") -> str | None:
    """Return the attention implementation of a transformers network, `sdpa` for PyTorch's own (transformers 5.23)."""
    found: str | None = config._attn_implementation
    return found


def is_compiled(network: "nn.Module") -> bool:
    """Whether `network.compile()` has been called (torch 2.13)."""
    return network._compiled_call_impl is not None


def norms_with_statistics() -> "type[_NormBase]":
    """Return the base class of batch and instance norms (torch 2.13)."""
    from torch.nn.modules.batchnorm import _NormBase

    return _NormBase


def sentence_statistics(
    metric: "Metric", predictions: "Sequence[str]", references: "Sequence[str]"
) -> list[list[float]]:
    """Return the statistics of each sentence, whose sums give the metric of a text (sacrebleu 2.6)."""
    found: list[list[float]] = metric._extract_corpus_statistics(list(predictions), [list(references)])
    return found


def score_of_sums(metric: "Metric", sums: "Sequence[float]") -> float:
    """Return the metric of sentences whose statistics add up to `sums` (sacrebleu 2.6)."""
    return float(metric._compute_score_from_stats(list(sums)).score)
