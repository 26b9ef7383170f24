"""The data of a LightningModule that makes its own loaders."""

from typing import final

import lightning.pytorch as pl


@final
class OwnLoaders(pl.LightningDataModule):
    """Stands in a configuration for data that the model itself brings, by its method `train_dataloader` and its kin."""
