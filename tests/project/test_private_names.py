"""Each private name of a library that something rests on does what is said of it, in the installed version."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from torch import nn
from transformers import BertConfig, BertModel

from lightrail.project.basics import private_names
from tests.support.tiny import Signs, fit, points_loader


class Seen(Callback):
    """Notes at the end of each batch what is known of it."""

    def __init__(self) -> None:
        self.batches: list[tuple[bool, bool, bool]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        names = (private_names.is_accumulating, private_names.is_epoch_over, private_names.is_validation_due)
        accumulating, over, due = (function(trainer) for function in names)
        self.batches.append((accumulating, over, due))


def test_what_is_known_of_a_batch() -> None:
    seen = Seen()
    parts: dict[str, Any] = {"max_epochs": 1, "accumulate_grad_batches": 3}
    validated: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 2}
    fit(Signs(), points_loader(12), callbacks=[seen], **parts, **validated)
    assert [accumulating for accumulating, _, _ in seen.batches] == [True, True, False]
    assert [over for _, over, _ in seen.batches] == [False, False, True]
    assert [due for _, _, due in seen.batches] == [False, True, False]


def test_a_trainer_looks_for_its_checkpoints_elsewhere(tmp_path: Path) -> None:
    trainer = fit(Signs(), max_steps=1)
    private_names.set_default_root(trainer, tmp_path)
    assert trainer.default_root_dir == str(tmp_path)


class Base:
    """Has a width.

    Args:
        width: of all.
    """

    def __init__(self, width: int = 3) -> None: ...


class Derived(Base):
    def __init__(self, depth: int, **more: int) -> None:
        super().__init__(**more)


def test_arguments_behind_others_are_found_with_their_descriptions() -> None:
    found = {item.name: item for item in private_names.signature_parameters(Derived)}
    assert found.keys() == {"depth", "width"}
    assert (found["width"].annotation, found["width"].default, found["width"].doc) == (int, 3, "of all.")


def test_a_store_takes_back_the_end_of_a_run(store: str) -> None:
    from mlflow.entities import RunStatus

    client = MlflowClient(store)
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id)
    private_names.tracking_store(client).update_run_info(run_id, RunStatus.RUNNING, None, None)
    assert client.get_run(run_id).info.status == "RUNNING"
    private_names.tracking_store(client).engine.dispose()


def test_a_trial_of_another_process_is_ended_once() -> None:
    study = optuna.create_study()
    study.ask()
    private_names.end_trial(study, study.trials[0], TrialState.FAIL)
    assert study.trials[0].state == TrialState.FAIL
    with pytest.raises(UpdateFinishedTrialError):
        private_names.end_trial(study, study.trials[0], TrialState.COMPLETE)


@pytest.mark.parametrize("name", ["TPESampler", "GPSampler", "CmaEsSampler"])
def test_a_sampler_starts_without_random_trials(name: str) -> None:
    sampler = getattr(optuna.samplers, name)(n_startup_trials=10)
    before = dict(vars(sampler))
    private_names.start_at_once(sampler)
    changed = {key: value for key, value in vars(sampler).items() if value is not before[key]}
    assert list(changed.values()) == [1]


def test_the_attention_of_a_network_is_known() -> None:
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    kinds = {"sdpa": BertConfig(**sizes), "eager": BertConfig(**sizes, attn_implementation="eager")}
    for kind, config in kinds.items():
        assert private_names.attention_kind(BertModel(config, add_pooling_layer=False).config) == kind


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch itself does when it compiles
def test_networks_are_distinguished() -> None:
    network = nn.Linear(2, 2)
    assert not private_names.is_compiled(network)
    network.compile()
    assert private_names.is_compiled(network)
    norms = private_names.norms_with_statistics()
    assert [isinstance(own, norms) for own in (nn.BatchNorm1d(2), nn.InstanceNorm1d(2), nn.LayerNorm(2))] == [
        True,
        True,
        False,
    ]
    assert torch.is_tensor(nn.BatchNorm1d(2).running_mean)
