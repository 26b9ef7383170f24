"""Numbers written out in words: a task for lightrail, in a package of its own."""

from number_words.data import NumberData
from number_words.metric import WeightedAccuracy
from number_words.task import NumberSpeller

__all__ = ["NumberData", "NumberSpeller", "WeightedAccuracy"]
