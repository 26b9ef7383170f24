"""LightningModules and their data in the form of Lightning's documentation, which know nothing of lightrail."""

from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

Points = Dataset[tuple[Tensor, ...]]


def points(number: int = 24) -> TensorDataset:
    """Two classes of points."""
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(7))
    return TensorDataset(x, (x[:, 0] > 0).long())


class LitModel(pl.LightningModule):
    """A classifier with dropout, a schedule by epoch, and metrics of steps and epochs."""

    def __init__(self, hidden: int = 8, lr: float = 0.05, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, hidden), activation or nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 2))

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def step(self, batch: Any, stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.log(f"{stage}_loss", loss, prog_bar=True)
        self.log(f"{stage}_acc", (logits.argmax(1) == y).float().mean(), on_epoch=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return {"label": self(batch[0]).argmax(1), "scores": self(batch[0])}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]


class PlateauModel(LitModel):
    """A learning rate that falls when the validation loss does."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class AveragingModel(LitModel):
    """A second network that follows the first after each batch, in a hook of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(4, 8)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.slow.weight.lerp_(self.net[0].get_parameter("weight"), 0.5)


class Gan(pl.LightningModule):
    """Two networks with an optimizer each, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(2, 4), nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, _ = batch
        first, second = cast(list[LightningOptimizer], self.optimizers())
        fake = self.generator(torch.randn(len(real), 2))
        generated = F.softplus(-self.critic(fake)).mean()
        first.zero_grad()
        self.manual_backward(generated)
        first.step()
        judged = F.softplus(self.critic(fake.detach())).mean() + F.softplus(-self.critic(real)).mean()
        second.zero_grad()
        self.manual_backward(judged)
        second.step()
        self.log_dict({"generator_loss": generated, "critic_loss": judged})

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.critic)
        return [torch.optim.Adam(own.parameters(), lr=0.01) for own in parts], []


class OwnLoadersModel(LitModel):
    """A module that makes its own loaders and its own callbacks."""

    def train_dataloader(self) -> Any:
        return DataLoader(points(), batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(points(8), batch_size=4)

    def configure_callbacks(self) -> list[Callback]:
        return [ModelCheckpoint(monitor="val_acc", mode="max", filename="{epoch}-{val_acc:.2f}")]


class LitData(pl.LightningDataModule):
    """Points in three splits, shuffled by a plain DataLoader."""

    def __init__(self, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers

    def setup(self, stage: str) -> None:
        lengths = [24, 8, 10]
        generator = torch.Generator().manual_seed(7)
        self.train, self.val, self.held = random_split(points(42), lengths, generator)

    def train_dataloader(self) -> Any:
        workers: dict[str, Any] = {"num_workers": self.num_workers}
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, **workers)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.held, batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return self.test_dataloader()


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Points with noise from PyTorch's own generator, as random transforms have."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x, y = points()[number]
        return x + 0.1 * torch.randn(4), y


class NoisyData(LitData):
    """Random transforms, and a loader that has a generator of its own, which lives as long as the data."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.order = torch.Generator().manual_seed(3)

    def train_dataloader(self) -> Any:
        return DataLoader(
            Noisy(), batch_size=self.batch_size, shuffle=True, generator=self.order, num_workers=self.num_workers
        )


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Points without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in torch.randperm(24).tolist():
            x, y = points()[number]
            yield x, y


class StreamData(LitData):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=self.batch_size)


class PairedData(LitData):
    """Two loaders of different lengths, of which the shorter one begins again."""

    def train_dataloader(self) -> Any:
        loaders = {
            "short": DataLoader(points(8), batch_size=4, shuffle=True),
            "long": DataLoader(points(20), batch_size=4, shuffle=True),
        }
        return CombinedLoader(loaders, "max_size_cycle")


class PairedModel(LitModel):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch["short"], "train") + self.step(batch["long"], "train")


class NoEvaluation(pl.LightningModule):
    """A module with a training step alone, and hyper-parameters that are no plain values."""

    def __init__(self, width: int = 4, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unstorable(NoEvaluation):
    """Stores an object in its checkpoints."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = Points


class TrainOnly(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(points(), batch_size=4, shuffle=True)
