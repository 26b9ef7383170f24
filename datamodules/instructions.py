"""Prompts with responses, or chats, for a language model that learns the responses alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, final

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, MeasuredRows
from lightrail.datamodules.batches.block_batches import collate_blocks
from lightrail.datamodules.batches.blocks import BlockConfig, EvaluationPieces, training_blocks
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.checking import Remedies
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Row
from lightrail.datamodules.reading.rows import list_for_text, text_value
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.dialogues import (
    ASSISTANT,
    DialogueEncoder,
    Segment,
    chat_segments,
    check_template,
    spoken,
    template_segments,
    turns_of,
)
from lightrail.project.basics.tokens.learning import load_language_tokenizer, needs_texts
from lightrail.project.basics.tokens.numbering import LanguageTokenizer


@final
class InstructionData(DataModule):
    """A table of prompts and responses, or of chats. Only the assistant's turns are learned and scored.

    Chats are lists of turns: `{"role": "user", "content": "Hello"}`, or ShareGPT's `{"from": "human", "value":
    "Hello"}`. Several dialogues are packed into a training row, and none sees another; in evaluation each is a row.

    Args:
        path: training data; to predict, dialogues whose responses are scored.
        prompt_column, response_column: names of the columns; Alpaca's are instruction and output.
        context_column: column of a text that belongs to the prompt and may be empty, null or absent from a JSON
            object, such as Alpaca's input; it is appended to the prompt after an empty line.
        messages_column: column of chats, such as messages or conversations, in place of prompts and responses.
        template: format of prompt and response, with {prompt} and {response}; text after the response is learned as
            well. null: a chat of two turns, by the chat template.
        chat_template: Jinja text of a chat template. null: the tokenizer's own.
        tokenizer: `characters`, `bytes`, `subwords` (byte pairs, trained on the training split), or the name or folder
            of a Hugging Face tokenizer.
        max_vocabulary: maximum number of distinct tokens, for characters and subwords.
        min_count: minimum count of characters and pairs of subwords in the training split.
        blocks: settings for arranging dialogues in rows; `sliding` is for running text. A dialogue may have one token
            more than `blocks.length`, as its last is only a target.
        too_long: treatment of a longer dialogue. cut: omit its end; skip: omit all of it. Both are counted and
            reported. One that is cut before the first response is omitted.
    """

    remedies = Remedies(length_setting="blocks.length", length="set data.too_long=skip")

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        prompt_column: str = "prompt",
        response_column: str = "response",
        context_column: str | None = None,
        messages_column: str | None = None,
        template: str | None = None,
        chat_template: str | None = None,
        tokenizer: str = "characters",
        max_vocabulary: PositiveInt = 8192,
        min_count: NaturalInt = 1,
        blocks: BlockConfig = BlockConfig(length=1024),
        too_long: Literal["cut", "skip", "refuse"] = "cut",
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.prompt_column, self.response_column = prompt_column, response_column
        self.context_column, self.messages_column = context_column, messages_column
        self.template, self.chat_template = template, chat_template
        self.tokenizer, self.max_vocabulary, self.min_count = tokenizer, max_vocabulary, min_count
        self.blocks, self.too_long = blocks, too_long
        self.max_length = blocks.length + 1
        self.is_cut = too_long == "cut"
        self.structured = [column for column in (context_column, messages_column) if column]
        self.optional = [context_column] if context_column else []
        self.texts = [prompt_column, response_column]
        self._encoder: DialogueEncoder | None = None
        self._named: LanguageTokenizer | None = None
        self._check_settings()

    def columns(self, split: Split) -> Mapping[str, str]:
        if self.messages_column:
            return {"messages_column": self.messages_column}
        columns = {"prompt_column": self.prompt_column, "response_column": self.response_column}
        return {**columns, "context_column": self.context_column} if self.context_column else columns

    def settings(self) -> Mapping[str, Any]:
        is_learned = needs_texts(self.tokenizer)
        return {
            "columns": [self.prompt_column, self.response_column, self.context_column, self.messages_column],
            "template": [self.template, self.chat_template],
            "tokenizer": [self.tokenizer, None if is_learned else self._tokenizer_named().digest],
            "vocabulary": [self.max_vocabulary, self.min_count],
            "length": [self.blocks.length, self.too_long],
        }

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        turns = self._turns(row)
        text, target = spoken(turns, by_assistant=False), spoken(turns, by_assistant=True)
        yield Row({"text": text or target, "target": target, "turns": turns}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        if not needs_texts(self.tokenizer):
            return {"tokenizer": self._tokenizer_named().facts()}
        texts = (segment.text for example in train for segment in self._segments(example, self._tokenizer_named()))
        tokenizer = load_language_tokenizer(
            self.tokenizer, texts, max_vocabulary=self.max_vocabulary, min_count=self.min_count
        )
        return {"tokenizer": self._with_chat_template(tokenizer).facts()}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        """Return the columns of a document; an omitted one has empty `input_ids`."""
        encoder = self._encoder_of(facts)
        segments = self._segments(example, encoder.tokenizer)
        numbered = encoder.chat(segments) if self.template is None else encoder.framed(segments)
        num_tokens = len(numbered.ids)
        if num_tokens > self.max_length and self.too_long == "refuse":
            raise DataError(
                f"{example.file}:{example.line}: {num_tokens} tokens, and data.blocks.length={self.blocks.length} "
                f"allows {self.max_length}. Set a larger one, or data.too_long to cut or skip."
            )
        kept = numbered.cut(self.max_length)
        if not kept.is_target[1:].any() or (num_tokens > self.max_length and self.too_long == "skip"):
            kept = kept.cut(0)
        return {
            "input_ids": kept.ids,
            "is_target": kept.is_target,
            "num_characters": kept.num_characters,
            "num_bytes": kept.num_bytes,
            "num_tokens": num_tokens,
            "text": example.values["text"],
            "target": example.values["target"],
        }

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        if not rows.lengths("input_ids").any() and rows.values("num_tokens").max() <= self.max_length:
            template = "data.chat_template" if self.template is None else "data.template"
            raise DataError(f"no {split} dialogue has a token of a response. Correct {template}, or the responses.")
        if not rows.lengths("input_ids").any():
            raise DataError(
                f"all {len(rows)} {split} dialogues are longer than data.blocks.length={self.blocks.length}, and no "
                f"token of a response is left. Set a larger one."
            )
        if split == "train":
            return training_blocks(rows, self.blocks, self.order_seed)
        return EvaluationPieces(rows, self.blocks)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows of dialogues; see `collate_blocks`."""
        return collate_blocks(rows, self._encoder_of(self.facts()).tokenizer.decode)

    def token_ids(self) -> Mapping[str, int]:
        return self._encoder_of(self.facts()).tokenizer.token_ids()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        return Inspected(length=row["num_tokens"], target=row["target"])

    def describe(self, rows: TokenisedSplit) -> str:
        num_longer = int((rows.values("num_tokens") > self.max_length).sum())
        num_left_out = int((rows.lengths("input_ids") == 0).sum())
        notes = []
        if num_longer > num_left_out or (num_longer and self.is_cut):
            notes.append(f"{num_longer} of {len(rows)} dialogues are longer than {self.max_length} tokens and are cut")
        if num_left_out:
            reason = "no token of a response was left" if self.is_cut else f"longer than {self.max_length} tokens"
            notes.append(f"{num_left_out} of {len(rows)} dialogues are omitted ({reason})")
        return "; ".join(notes)

    def _check_settings(self) -> None:
        check_arguments(self)
        self.blocks.check()
        if self.blocks.method == "sliding":
            raise ConfigError("data.blocks.method=sliding would mix dialogues. Set packed or separate.")
        if self.template is not None and self.messages_column:
            raise ConfigError(
                f"data.template formats prompts and responses, and data.messages_column={self.messages_column} names "
                f"chats. Omit one of them; data.chat_template formats chats."
            )
        if self.template is not None:
            check_template(self.template)
        elif not self._tokenizer_named().has_chat_template:
            raise ConfigError(
                f"data.tokenizer={self.tokenizer} has no chat template. Set data.template (such as "
                f'"{{prompt}}\\n{{response}}") for prompts and responses, or data.chat_template for chats.'
            )

    def _turns(self, row: Row) -> list[list[str]]:
        where = f"{row.file}:{row.line}"
        if self.messages_column:
            return turns_of(row.values[self.messages_column], where)
        prompt = row.values[self.prompt_column]
        if self.context_column:
            context = text_value(row.values[self.context_column], where, self.context_column)
            if isinstance(context, list):
                raise list_for_text(row, self.context_column, "data.context_column")
            prompt = f"{prompt}\n\n{context}" if context and context.strip() else prompt
        return [["user", prompt], [ASSISTANT, row.values[self.response_column]]]

    def _segments(self, example: Row, tokenizer: LanguageTokenizer) -> list[Segment]:
        turns = example.values["turns"]
        if self.template is not None:
            return template_segments(self.template, *(content for _, content in turns))
        return chat_segments(turns, tokenizer.render_chat, f"{example.file}:{example.line}")

    def _encoder_of(self, facts: Facts) -> DialogueEncoder:
        if self._encoder is None or self._encoder.tokenizer.facts() != facts["tokenizer"]:
            self._encoder = DialogueEncoder(LanguageTokenizer.from_facts(facts["tokenizer"]))
        return self._encoder

    def _tokenizer_named(self) -> LanguageTokenizer:
        """The tokenizer of the setting; if it is yet to be learned, the bytes with the same chat template."""
        if self._named is None:
            name = "bytes" if needs_texts(self.tokenizer) else self.tokenizer
            self._named = self._with_chat_template(load_language_tokenizer(name))
        return self._named

    def _with_chat_template(self, tokenizer: LanguageTokenizer) -> LanguageTokenizer:
        if self.chat_template is None:
            return tokenizer
        return LanguageTokenizer.from_facts({**tokenizer.facts(), "chat_template": self.chat_template})
