"""The data of a LightningModule that makes its own loaders."""

from typing import final

import lightning.pytorch as pl


@final
class OwnLoaders(pl.LightningDataModule):
    """Replaces the data in a configuration whose model makes its own loaders, by `train_dataloader` and its kin."""
