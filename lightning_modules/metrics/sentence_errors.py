"""How far predicted sentences are from what was meant, in characters."""

import re

from torchmetrics.functional.text import edit_distance

HANZI = re.compile(r"[\u3400-\u9fff\U00020000-\U000323af]")


def only_hanzi(text: str) -> str:
    return "".join(HANZI.findall(text))


def num_edits(predicted: str, target: str) -> int:
    """Levenshtein distance. Of texts equally long, up to two differing places are that many edits: no quicker way
    exists, since an insertion comes with a deletion.
    """
    if len(predicted) == len(target):
        num_different = sum(one != other for one, other in zip(predicted, target, strict=True))
        if num_different <= 2:
            return num_different
    return int(edit_distance([predicted], [target], reduction="sum"))
