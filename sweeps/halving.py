"""The same training in less memory."""

from typing import Any

from project.configuration import Configuration

HALVED_TAG = "lightrail.halved"
"""Of a run whose batches are half as large as its trial's settings say."""


def with_half_batches(configuration: Configuration) -> Configuration:
    """Halve what a batch may hold and take twice as many of them for a step, so that the trial stays comparable.

    Returns: the same configuration where nothing can be halved.
    """
    values = configuration.values
    data, trainer = values["data"], values["trainer"]
    batch: dict[str, Any] = data["init_args"].get("batch") or {}
    halved = {name: _half(value) if name in ("size", "max_tokens") else value for name, value in batch.items()}
    if halved == batch:
        return configuration
    accumulation = 2 * trainer["accumulate_grad_batches"]
    return Configuration(
        {
            **values,
            "data": {**data, "init_args": {**data["init_args"], "batch": halved}},
            "trainer": {**trainer, "accumulate_grad_batches": accumulation},
        }
    )


def _half(value: int | None) -> int | None:
    return None if value is None else max(1, value // 2)
