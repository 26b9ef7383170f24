"""What the guides take for granted in the folder one works in, and settings that make their commands small."""

import json

PAIRS = [
    {"en": f"{number} {english} outside.", "de": f"{number} {german} draußen."}
    for number in ("Two", "Three", "Four", "Five")
    for english, german in (("men", "Männer"), ("dogs", "Hunde"), ("children", "Kinder"), ("women", "Frauen"))
]
SENTENCES = [
    f"{who}是{what}。" for who in ("我们", "你", "老师", "他") for what in ("学生", "好人", "行长", "世界", "中国人")
]
REVIEWS = [(f"这本书{word}{end}", "+" if word in "好美" else "-") for word in "好坏美丑" for end in "啊了的吧呢"]


def tagged(sentence: str) -> str:
    """Its characters a line each, the first word of two a person."""
    tags = ["B-PER", "E-PER", *["O"] * (len(sentence) - 2)]
    return "".join(f"{character} {tag}\n" for character, tag in zip(sentence, tags, strict=True))


FILES = {
    "sentences.txt": "".join(f"{sentence}\n" for sentence in SENTENCES),
    "reviews.csv": "text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS),
    "train.tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in REVIEWS[::2]),
    "dev.tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in REVIEWS[1::4]),
    "test.tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in REVIEWS[3::4]),
    "sentences.conll": "".join(f"{tagged(sentence)}\n" for sentence in SENTENCES),
    "book.txt": "".join(f"{sentence}\n" for sentence in SENTENCES),
    "masked.txt": "我们是[MASK][MASK]。\n",
    "plays.txt": " ".join(SENTENCES[4:]),
    "rest.txt": " ".join(SENTENCES[:4]),
    **{f"captions.{side}": "".join(f"{pair[side]}\n" for pair in PAIRS) for side in ("en", "de")},
    "pairs.jsonl": "".join(
        json.dumps({"text": pair["en"], "pair": f"There are {pair['en'].lower()}", "score": number % 6}) + "\n"
        for number, pair in enumerate(PAIRS)
    ),
    "captions.jsonl": "".join(f"{json.dumps(pair)}\n" for pair in PAIRS),
    "sentences.en": "A dog sees the house.\nTwo men.\n",
    "questions.jsonl": "".join(f'{{"question": "{text}", "answer": "{label}"}}\n' for text, label in REVIEWS),
    "new.txt": "wo men shi hao ren\nni shi shi jie\n",
    "rows.json": json.dumps({"dataframe_records": [{"text": "wo men shi hao ren"}]}),
    "faster.yaml": "model:\n  init_args:\n    optim:\n      lr: 0.01\n",
    "my_package.py": "",
}
"""What the guides take for granted in the folder one works in."""
SMALL_DATA = {
    "PinyinData": ["path=sentences.txt"],
    "TextClassificationData": ["path=reviews.csv"],
    "EntityData": ["path=sentences.conll"],
    "ImageClassificationData": ["path=embedded:digits", "test_path=null"],
    "CausalLMData": ["path=sentences.txt"],
    "MaskedLMData": ["path=sentences.txt"],
    "InstructionData": ["path=reviews.csv"],
    "SentenceData": ["path=sentences.txt"],
    "TranslationData": ["path=captions.jsonl", "validation_path=null", "test_path=null", "tokenizer=characters"],
}
"""Settings in place of what is embedded or comes with another package, by the class of the data."""
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
EVERY_SPLIT_HAS_ROWS = ["--data.split.validation_fraction=0.3", "--data.split.test_fraction=0.3"]
OF_THE_CHECKPOINT = ["--data.tokenizer=gpt", "--data.blocks.length=64"]
"""What fits the decoder in the folder `gpt`."""


def class_name(chosen: dict[str, str]) -> str:
    return chosen["class_path"].rpartition(".")[2]
