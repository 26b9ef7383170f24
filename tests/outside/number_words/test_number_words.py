"""The task keeps the contract of lightrail."""

import csv
from pathlib import Path

from lightrail.testing import TaskContract

UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["-", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    tens, units = divmod(number, 10)
    return " ".join([TENS[tens]] * (tens > 0) + [UNITS[units]] * (units > 0 or tens == 0))


def write_numbers(file: Path, numbers: range) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["number", "words", "weight"])
        writer.writerows([number, in_words(number), 1 + number % 3 / 2] for number in numbers)
    return file


class TestNumberSpeller(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        parts = {"path": range(0, 40, 5), "test_path": range(41, 52), "validation_path": range(61, 66)}
        files = {name: write_numbers(folder / f"{name}.csv", numbers) for name, numbers in parts.items()}
        return [
            *("--model=NumberSpeller", "--data=NumberData", "--model.width=16"),
            *(f"--data.{name}={file}" for name, file in files.items()),
        ]

    def without_dropout(self) -> list[str]:
        return ["--model.dropout=0"]
