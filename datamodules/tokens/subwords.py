"""Subwords trained on the training split, rebuilt from their list alone."""

from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

from lightrail.datamodules.tokens.tokenizing import FIRST, UNKNOWN, OwnTokenizer, vocabulary_of, whole_characters

_CONTINUES = "##"
"""Begins a piece that goes on with a word."""
_MAX_WORD = 100
"""Characters; a longer word is unknown."""
_WORDS_PER_CHUNK = 10_000


class SubwordTokenizer(OwnTokenizer):
    """Word pieces: a word is its longest known beginning, then the longest known continuation, and so on.

    Words are cut as for BERT: at white space, and around punctuation and Chinese characters. A word with a character
    that is not in the vocabulary is unknown as a whole.

    Source: Schuster and Nakajima (2012), "Japanese and Korean voice search"; trained by joining the most frequent pair
    of pieces, as Sennrich et al. (2016), "Neural machine translation of rare words with subword units".
    """

    def __init__(self, *, lower_case: bool) -> None:
        from tokenizers import normalizers, pre_tokenizers

        self._normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=lower_case)
        self._pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self.digest = "subwords"
        self._vocabulary: list[str] = []
        self._backend: Any = None

    def split(self, text: str) -> list[str]:
        plain = self._normalizer.normalize_str(whole_characters(text))
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(plain)]

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        """Train on counted words. The same counts give the same pieces, on every machine.

        Left to itself the library numbers characters in an order that changes from process to process, and joins
        equally frequent pairs by these numbers; here characters come first, and in an order of their own.
        """
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        words = {word: count for word, count in counts.items() if len(word) <= _MAX_WORD}
        characters = dict.fromkeys(vocabulary_of(_characters(words), most, min_count))
        # The library adds characters that only go on with words as beginnings too, which nothing would ever be.
        unseen = {piece.removeprefix(_CONTINUES) for piece in characters} - characters.keys()
        trainer = trainers.WordPieceTrainer(
            vocab_size=most + len(unseen),
            min_frequency=min_count,
            special_tokens=list(characters),
            continuing_subword_prefix=_CONTINUES,
            show_progress=False,
        )
        backend = Tokenizer(models.WordPiece())
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.train_from_iterator(_repeated(words, characters.keys()), trainer)
        numbers = backend.get_vocab()
        return sorted(numbers.keys() - unseen, key=numbers.__getitem__)[:most]

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        if self._backend is None or self._vocabulary is not vocabulary:
            self._vocabulary, self._backend = vocabulary, self._rebuilt(vocabulary)
        ids: list[int] = self._backend.encode(whole_characters(text)).ids
        return ids

    def _rebuilt(self, vocabulary: list[str]) -> Any:
        from tokenizers import Tokenizer, models

        unknown = ""  # no piece is empty
        numbers = {unknown: UNKNOWN, **{piece: number for number, piece in enumerate(vocabulary, start=FIRST)}}
        model = models.WordPiece(
            numbers, unk_token=unknown, max_input_chars_per_word=_MAX_WORD, continuing_subword_prefix=_CONTINUES
        )
        backend = Tokenizer(model)
        backend.normalizer, backend.pre_tokenizer = self._normalizer, self._pre_tokenizer
        return backend


def _pieces(word: str) -> list[str]:
    return [word[0], *(_CONTINUES + character for character in word[1:])]


def _characters(words: dict[str, int]) -> Counter[str]:
    """Count characters, those that begin a word and those that go on with one apart."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in _pieces(word):
            counts[piece] += count
    return counts


def _repeated(words: dict[str, int], characters: Set[str]) -> Iterator[str]:
    """Write each word as often as it was counted, but for those that will be unknown."""
    for word, count in words.items():
        if characters >= set(_pieces(word)):
            for start in range(0, count, _WORDS_PER_CHUNK):
                yield f"{word} " * min(_WORDS_PER_CHUNK, count - start)
