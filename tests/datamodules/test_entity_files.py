"""Files of entities are read in the forms in which corpora are published, recognised by their content."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.reading import TaggedLines
from lightrail.project.basics.errors import DataError, Refusal
from tests.support.tagged_texts import batch_of, entities_of, marked, paths
from tests.support.texts import ready

CONLL_2003 = """\
-DOCSTART- -X- -X- O

Lyon NNP I-NP {0}-LOC
lost VBD I-VP O
to TO I-PP O
Real NNP I-NP {0}-ORG
Oviedo NNP I-NP I-ORG
Porto NNP I-NP B-ORG
. . O O

-DOCSTART- -X- -X- O

# # I-NP O
Ada NNP I-NP {0}-PER
won VBD I-VP O
"""
CONLLU = """\
# newdoc
# sent_id = 1
# text = Vámonos a Lugo ya
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tyo\tPRON\t_\t_\t1\tobj\t_\t_
3\ta\ta\tADP\t_\t_\t4\tcase\t_\t_
4\tLugo\tLugo\tPROPN\t_\t_\t1\tobl\t_\tSpaceAfter=No|NER=B-LOC
4.1\tya\tya\tADV\t_\t_\t_\t_\t1:advmod\t_
5\tya\tya\tADV\t_\t_\t1\tadvmod\t_\t_

# text = Al Sur
1-2\tAl\t_\t_\t_\t_\t_\t_\t_\tNER=B-LOC
1\tA\ta\tADP\t_\t_\t3\tcase\t_\t_
2\tel\tel\tDET\t_\t_\t3\tdet\t_\t_
3\tSur\tsur\tPROPN\t_\t_\t0\troot\t_\tNER=I-LOC
"""
PLUS = """\
# global.columns = ID FORM UPOS LAB:NER MISC
1\tUma\tPROPN\tB-PER\t_
2\tcanta\tVERB\tO\t_

1\tRoma\tPROPN\tB-LOC\t_
"""


def read(folder: Path, content: str, ending: str = ".txt", **settings: Any) -> EntityData:
    settings = {"units": "words", "min_count": 1, **settings}
    return ready(EntityData(**paths(folder, ending, train=content), **settings))


def found(data: EntityData) -> list[list[tuple[str, str]]]:
    return entities_of(batch_of(data, *range(len(data.rows("train")))), data.facts()["labels"])


def form(data: EntityData) -> str:
    """The line of the check that says how the files were read."""
    (line,) = (own for own in data.report().render().splitlines() if own.startswith("train, validation, test: "))
    return line.partition(": ")[2]


# Lines of tagged tokens


@pytest.mark.parametrize(("letter", "scheme"), [("I", "IOB1"), ("B", "IOB2")])
def test_the_four_columns_of_conll_2003_are_read_in_either_scheme(tmp_path: Path, letter: str, scheme: str) -> None:
    data = read(tmp_path, CONLL_2003.format(letter))
    assert found(data) == [[("Lyon", "LOC"), ("Real Oviedo", "ORG"), ("Porto", "ORG")], [("Ada", "PER")]]
    assert batch_of(data)["text"] == ["Lyon lost to Real Oviedo Porto .", "# Ada won"]
    assert form(data) == (
        f"lines of tagged tokens, 4 columns: token in column 0, tag in column 3; 2 bounds of documents; scheme {scheme}"
    )


def test_comments_precede_sentences_and_hashtags_are_tokens(tmp_path: Path) -> None:
    lines = "# id 7 domain=a\n# 12\n#go\tO\t-\nRome\tB-LOC\t-\n#\tO\t-\n\n#end of all\n"
    data = read(tmp_path, lines.replace("# 12", "# 12\tx\t-"), tagged_lines=TaggedLines(tag_column=1))
    assert batch_of(data, 0)["text"] == ["#go Rome #"]
    assert found(data) == [[("Rome", "LOC")]]
    assert "; 3 comments left out; scheme IOB2" in form(data)


def test_words_of_conllu_have_their_tags_in_misc(tmp_path: Path) -> None:
    data = read(tmp_path, CONLLU)
    assert batch_of(data)["text"] == ["Vamos nos a Lugo ya", "Al Sur"]
    assert found(data) == [[("Lugo", "LOC")], [("Al Sur", "LOC")]]
    assert form(data) == "CoNLL-U: tokens in column FORM, tags in MISC as NER=TAG; 4 comments left out; scheme IOB2"
    chosen = read(tmp_path, CONLLU.replace("NER=", "NER=O|Name="), tagged_lines=TaggedLines(tag_column="Name"))
    assert found(chosen) == found(data)


@pytest.mark.parametrize(("tag_column", "title"), [(-1, "LAB:NER"), ("XPOS", "XPOS"), (3, "XPOS")])
def test_columns_of_conllu_plus_have_names(tmp_path: Path, tag_column: int | str, title: str) -> None:
    lines = PLUS.replace("LAB:NER", title)
    data = read(tmp_path, lines, ".conllup", tagged_lines=TaggedLines(tag_column=tag_column))
    assert found(data) == [[("Uma", "PER")], [("Roma", "LOC")]]
    assert form(data).startswith(f"CoNLL-U Plus: tokens in column FORM, tags in column {title}; 1 comments")


# Entities by character

TEXT = "王芳在北京 ok"
FORMS: dict[str, dict[str, Any]] = {
    "doccano": {"id": 3, "text": TEXT, "label": [[0, 2, "PER"], [3, 5, "LOC"]], "Comments": []},
    "doccano with relations": {
        "text": TEXT,
        "entities": [
            {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 2},
            {"id": 2, "label": "LOC", "start_offset": 3, "end_offset": 5},
        ],
        "relations": [],
    },
    "spacy": {
        "text": TEXT,
        "ents": [{"start": 0, "end": 2, "label": "PER"}, {"start": 3, "end": 5, "label": "LOC"}],
        "tokens": [{"id": 0, "start": 0, "end": 2}],
    },
    "prodigy": {
        "text": TEXT,
        "tokens": [{"text": "王芳", "start": 0, "end": 2, "id": 0}],
        "spans": [
            {"start": 0, "end": 2, "token_start": 0, "token_end": 0, "label": "PER"},
            {"start": 3, "end": 5, "token_start": 1, "token_end": 1, "label": "LOC"},
        ],
        "answer": "accept",
    },
    "cluener": {"text": TEXT, "label": {"PER": {"王芳": [[0, 1]]}, "LOC": {"北京": [[3, 4]]}}},
    "cmeee": {
        "text": TEXT,
        "entities": [
            {"start_idx": 0, "end_idx": 1, "type": "PER", "entity": "王芳"},
            {"start_idx": 3, "end_idx": 4, "type": "LOC", "entity": "北京"},
        ],
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_spans_of_every_tool_give_the_same_entities(tmp_path: Path, name: str) -> None:
    data = marked(tmp_path, FORMS[name])
    assert entities_of(batch_of(data, 0), data.facts()["labels"]) == [[("王芳", "PER"), ("北京", "LOC")]]
    is_shown = name in ("cluener", "cmeee")
    ends = "ends inclusive of 2, as the text that they cover shows" if is_shown else "ends exclusive"
    assert form(data).startswith("JSON: text in column text, entities in column ")
    assert form(data).endswith(ends)


def test_annotations_that_were_not_accepted_are_left_out(tmp_path: Path) -> None:
    good = FORMS["prodigy"]
    data = marked(tmp_path, good, {**good, "answer": "reject"}, {"text": "好", "answer": "accept"})
    assert [data.rows("train").row(number)["text"] for number in range(2)] == [TEXT, "好"]
    assert len(data.rows("train")) == 2


def test_json_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    content = json.dumps([FORMS["doccano"]], ensure_ascii=False, indent=1)
    assert found(read(tmp_path, content, ".train", units="characters")) == [[("王芳", "PER"), ("北京", "LOC")]]


# Tags that are numbers

NUMBERED = '{"id": "0", "tokens": ["Ada", "in", "Rome"], "ner_tags": [1, 0, 2]}\n'
NAMES = ["O", "B-PER", "B-LOC"]
README = """\
---
license: mit
dataset_info:
- config_name: default
  features:
  - {name: tokens, sequence: string}
  - name: ner_tags
    sequence: {class_label: {names: {'0': O, '1': B-PER, '2': B-LOC}}}
---
# Own names
"""
FEATURE = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}
INFO = {
    "features": {"tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}, "ner_tags": FEATURE}
}


@pytest.mark.parametrize(
    ("file", "content"), [("README.md", README), ("dataset_info.json", json.dumps(INFO)), ("", "")]
)
def test_numbers_of_tags_have_the_names_of_their_data_set(tmp_path: Path, file: str, content: str) -> None:
    if file:
        (tmp_path / file).write_text(content)
    (tmp_path / "data").mkdir()
    data = read(tmp_path / "data", NUMBERED, ".jsonl", tag_names=None if file else NAMES)
    assert found(data) == [[("Ada", "PER"), ("Rome", "LOC")]]
    assert form(data) == "JSON: tokens in column tokens, tags in column ner_tags; scheme IOB2"


@pytest.mark.parametrize("source", ["{}/train.parquet", "hub:{}@train"])
def test_the_names_of_parquet_and_of_its_folder_are_used(tmp_path: Path, source: str) -> None:
    table = pa.table({"tokens": [["Ada", "ate"]], "ner_tags": [[1, 0]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": INFO})})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    path = source.format(tmp_path)
    data = ready(EntityData(path, validation_path=path, test_path=path, units="words", min_count=1))
    assert found(data) == [[("Ada", "PER")]]


def test_other_names_are_other_rows(tmp_path: Path) -> None:
    read(tmp_path, NUMBERED, ".jsonl", tag_names=NAMES)
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO).replace("B-LOC", "B-GPE"))
    assert read(tmp_path, NUMBERED, ".jsonl").facts()["labels"] == ["GPE", "PER"]
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    assert read(tmp_path, NUMBERED, ".jsonl").facts()["labels"] == ["LOC", "PER"]


# What is broken


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONLL_2003.format("B").replace("to TO I-PP O", "to TO O"), r"test\.txt:5: 3 fields in 'to TO O', 4 expected"),
        (CONLL_2003.format("B").replace("to TO I-PP O", "# next one"), r":5: 3 fields .* a blank line before it"),
        (
            CONLL_2003.format("B").replace("won VBD I-VP O", "won VBD I-VP X"),
            r"train\.txt:15: 'X' is no tag of the scheme IOB2",
        ),
        ("Ada B-PER\nran O\n. O\n" * 40, r"test\.txt:3: a sentence ends here, without a blank line .* 120 tokens"),
        (CONLLU.replace("\n\n# text", "\n# text"), r":11: the comment '# text = Al Sur' stands inside a sentence"),
        (CONLLU.replace("\n\n# text = Al Sur", ""), r":12: ID 1 where 6 is expected. Write a blank line before it"),
        (CONLLU.replace("\n3\ta\ta", "\nx\ta\ta"), r":7: ID 'x' is not a number as 1, 1-2 or 1\.1"),
        (CONLLU.replace("1\tobj\t_\t_", "1\tobj\t_"), r":6: 9 fields .*, 10 expected \(ID, FORM, .* separated by tabs"),
        (CONLLU.replace("NER=", "Name="), r"test\.txt: no word has an entity's tag in MISC, as NER=B-PER"),
        (CONLLU.replace("=I-LOC", "=I-PER"), r"train\.txt:16: I-PER without B-PER before it"),
        (NUMBERED, r"test\.txt:1: tags are numbers, such as '1', and neither .*Set data\.tag_names"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        read(tmp_path, content)


def test_a_number_without_a_name_and_a_damaged_description_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"jsonl:1: tag '2' has no name: data\.tag_names names 0 to 1"):
        read(tmp_path, NUMBERED, ".jsonl", tag_names=NAMES[:2])
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_info\.json: .*or set data\.tag_names"):
        read(tmp_path, NUMBERED, ".jsonl")


def test_a_surface_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"jsonl:1: entity LOC 3:5 \('北京'\) is annotated as '南京', which is not there"
    ):
        marked(tmp_path, {"text": TEXT, "label": {"LOC": {"南京": [[3, 5]]}}})


@pytest.mark.parametrize("column", ["FORM", 9])
def test_a_column_that_is_not_there_is_refused(tmp_path: Path, column: int | str) -> None:
    with pytest.raises(Refusal, match=r"tagged_lines\.tag_column is .*Give"):
        read(tmp_path, CONLL_2003.format("B"), tagged_lines=TaggedLines(tag_column=column))
    with pytest.raises(Refusal, match=r"tagged_lines\.tag_column is .*|no word has"):
        read(tmp_path, PLUS, tagged_lines=TaggedLines(tag_column=9 if column == 9 else "Name"))
