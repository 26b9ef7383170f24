"""The pinyin tagger keeps the contract, and chooses only among what a syllable can be read as."""

from pathlib import Path

from lightrail.testing.contract import TaskContract
from tests.support.tasks import pinyin


class TestPinyinTagger(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return pinyin.settings(folder)
