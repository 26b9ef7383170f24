"""The same training in less memory."""

from typing import Any

from lightrail.project.configuration import Configuration

HALVED_TAG = "lightrail.halved"
"""Of a run whose batches are half as large as its trial's settings say."""
COUNT_BATCHES = (
    "accumulate_grad_batches",
    "val_check_interval",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
)
"""Settings of the trainer that count batches; those that are no whole number are shares of an epoch."""


def with_half_batches(configuration: Configuration) -> Configuration:
    """Halve what a batch may hold and take twice as many of them, so that the trial stays comparable.

    Twice as many for an optimizer step, from one validation to the next, and of whatever else is counted in batches.

    Returns: the same configuration where nothing can be halved.
    """
    values = configuration.values
    data, trainer = values["data"], values["trainer"]
    batch: dict[str, Any] = data["init_args"].get("batch") or {}
    halved = {name: _half(value) if name in ("size", "max_tokens") else value for name, value in batch.items()}
    if halved == batch:
        return configuration
    more = {name: 2 * trainer[name] for name in COUNT_BATCHES if isinstance(trainer.get(name), int)}
    data = {**data, "init_args": {**data["init_args"], "batch": halved}}
    return Configuration({**values, "data": data, "trainer": {**trainer, **more}})


def _half(value: int | None) -> int | None:
    return None if value is None else max(1, value // 2)
