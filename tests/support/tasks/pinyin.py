"""A tiny pinyin tagger, and sentences for it."""

from pathlib import Path

SENTENCES = {
    "train": [
        "你好",
        "我们是学生",
        "他是老师，我是学生。",
        "银行",
        "银行行长",
        "世界你好",
        "是的",
        "学生的世界是他的，行",
    ],
    "validation": ["你是老师", "他们好", "我是行长", "世界", "老师好"],
    "test": [
        "你",
        "他好",
        "我们好",
        "我是他",
        "他们是学生",
        "老师",
        "老师是他",
        "银行是世界的",
        "行长你好",
        "是我",
        "世界，好",
    ],
}
HANZI = "你好我们是学生他老师银行世界的长"
SYLLABLES = [
    "ni",
    "hao",
    "wo",
    "men",
    "shi",
    "xue",
    "sheng",
    "ta",
    "lao",
    "shi",
    "yin",
    "xing",
    "shi",
    "jie",
    "de",
    "zhang",
]
READINGS = dict(zip(HANZI, SYLLABLES, strict=True))


def write_sentences(folder: Path) -> list[str]:
    """Write a table for each split; 行 is read hang after 银 or before 长."""
    for split, sentences in SENTENCES.items():
        lines = []
        for sentence in sentences:
            tokens = [READINGS.get(character, character) for character in sentence]
            for place, character in enumerate(sentence):
                is_row = "银" in sentence[max(0, place - 1) : place] or sentence[place + 1 : place + 2] == "长"
                if character == "行" and is_row:
                    tokens[place] = "hang"
            lines.append(f"{sentence}\t{' '.join(tokens)}\n")
        (folder / f"{split}.tsv").write_text("text\tsyllables\n" + "".join(lines), encoding="utf-8")
    return [
        "--data=PinyinData",
        f"--data.path={folder}/train.tsv",
        f"--data.validation_path={folder}/validation.tsv",
        f"--data.test_path={folder}/test.tsv",
        "--data.has_syllables=true",
    ]


TINY = [
    "--model=PinyinTagger",
    "--model.encoder.width=16",
    "--model.encoder.depth=1",
    "--model.encoder.num_heads=2",
    "--model.encoder.ngram_orders=[2]",
    "--model.encoder.ngram_buckets=64",
    "--model.encoder.ngram_width=8",
]


def settings(folder: Path) -> list[str]:
    return [*TINY, *write_sentences(folder)]


TRANSLATOR = [
    "--model=PinyinTranslator",
    "--model.network.width=32",
    "--model.network.dropout=0.05",
    "--model.num_beams=2",
    "--model.validation_beams=2",
]

CONVERTER = [
    "--model=PinyinConverter",
    "--model.encoder.width=16",
    "--model.encoder.depth=1",
    "--model.encoder.num_heads=2",
    "--model.encoder.ngram_orders=[2]",
    "--model.encoder.ngram_buckets=64",
    "--model.encoder.ngram_width=8",
    "--model.history.buckets=256",
    "--model.history.width=8",
]

NGRAM = ["--model=PinyinNgram", "--model.min_counts=[1,1,1]", "--trainer.max_epochs=1"]
