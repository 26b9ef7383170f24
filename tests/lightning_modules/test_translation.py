"""Translation keeps the contract with each kind of network."""

from pathlib import Path

from lightrail.testing.contract import NetworkContract, TaskContract
from tests.support.tasks import translation


class TestTranslation(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return translation.settings(folder)

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


class TestRecurrentTranslation(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        return translation.settings(folder, translation.RECURRENT)

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]
