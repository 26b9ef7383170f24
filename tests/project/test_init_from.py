"""`model.init_from`: a run starts from another one's weights, says what it took, and names it ever after."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.cli import main
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from tests.support.callbacks import ALLOW, EVERY_STEP
from tests.support.running import FOUR_STEPS, QUIET, Fitted, Outcome, RecordedRun, lightrail, runs_in
from tests.support.tasks import entities

ENCODER = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]


@pytest.fixture
def tagger(tmp_path: Path) -> list[str]:
    """Arguments of a tagger with the encoder that the classifier has."""
    network = ["--model.encoder=TransformerConfig", *(f"--model.encoder.{size}" for size in ENCODER)]
    return [*entities.write_entities(tmp_path), "--data.min_count=1", *network, *FOUR_STEPS, *QUIET]


def refused(*arguments: str, store: str) -> str:
    """See that `check` and `fit` say the same in one line, and that there is no run; return it."""
    said = [lightrail(command, *arguments, f"--tracking.uri={store}") for command in ("check", "fit")]
    assert [outcome.status for outcome in said] == [2, 2]
    assert not runs_in(store)
    lines = [outcome.err.strip().splitlines()[-1] for outcome in said]
    assert lines[0] == lines[1]
    return lines[0]


def altered(checkpoint: Path) -> None:
    """Change one weight of a checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    next(iter(content["state_dict"].values()))[-1] += 1
    torch.save(content, checkpoint)


def test_a_tagger_starts_from_a_classifier_by_one_setting(
    fitted_classifier: Fitted, tagger: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """In the classifier's store, where `runs:/` finds it."""
    named = f"runs:/{fitted_classifier.run_id}"
    arguments = [*tagger, f"--tracking.uri={fitted_classifier.store}", f"--model.init_from={named}"]
    checked, outcome = (lightrail(command, *arguments) for command in ("check", "fit"))
    assert outcome.status == 0, outcome.err
    run = RecordedRun(fitted_classifier.store, outcome.run_id)
    tags = run.tags
    assert tags["lightrail.init_from"] == fitted_classifier.run_id
    assert f"`{named}`" in tags["mlflow.note.content"]
    taken = tags["lightrail.init_taken"]
    assert "new: encoder.embedding.ngrams" in taken
    assert "left: " in taken
    assert f"from {named}: {taken}" in caplog.text
    assert f"init         from {named}: {taken}" in checked.out
    weights, name = fitted_classifier.weights("best"), "encoder.norm.weight"
    started = build(parse(arguments), "fit").model
    assert torch.equal(started.get_parameter(name), weights[name])


def test_the_vocabulary_of_the_weights_is_continued_by_new_tokens(fitted_classifier: Fitted, tmp_path: Path) -> None:
    """So that a token of the test, which no training example has, is known, and hashes of tokens keep their meaning."""
    checkpoint = fitted_classifier.directory / "checkpoints" / "best.ckpt"
    before = TextClassifier.load_from_checkpoint(checkpoint)
    texts = ["a good owl", "bad owl", "it is fine", "dull", "so good", "so dull", "a fine day", "really bad"]
    rows = [{"text": text, "pair": text, "label": "+" if "good" in text or "fine" in text else "-"} for text in texts]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [*fitted_classifier.arguments, f"--data.path={tmp_path}/new.jsonl", f"--model.init_from={checkpoint}"]
    experiment = build(parse(arguments), "fit")
    known, vocabulary = before.hparams["vocabulary"], experiment.data.facts()["vocabulary"]
    assert vocabulary == [*known, "owl"]
    assert vocabulary == experiment.model.hparams["vocabulary"]
    assert {"film", ","} <= set(vocabulary)
    for name, weights in before.encoder.named_parameters():
        found = experiment.model.get_parameter(f"encoder.{name}")
        assert torch.equal(found[: len(weights)], weights), name
    # The separator of pairs has the first id, which stands for another token there.
    splits = [f"--data.{split}_path={tmp_path}/new.jsonl" for split in ("validation", "test")]
    pairs = build(parse([*arguments, *splits, "--data.pair_column=pair"]), "fit")
    assert pairs.data.facts()["vocabulary"][0] == "[SEP]"
    assert "film" not in pairs.data.facts()["vocabulary"]


def test_a_run_needs_what_it_started_from_only_until_its_first_checkpoint(
    fitted_classifier: Fitted, store: str, tmp_path: Path
) -> None:
    ancestor = tmp_path / "ancestor.ckpt"
    shutil.copy(fitted_classifier.directory / "checkpoints" / "best.ckpt", ancestor)
    stop = ["--trainer.callbacks=Interrupt", f"--trainer.callbacks.marker={tmp_path}/marker"]
    settings = [f"--model.init_from={ancestor}", f"--tracking.uri={store}", ALLOW, EVERY_STEP]
    assert main(["fit", *fitted_classifier.arguments, *settings, *stop]) == 130
    (run,) = runs_in(store)
    assert run.tags["lightrail.init_from"] == fitted_classifier.run_id
    restarted = run.directory.rename(tmp_path / "aside")
    shutil.copytree(restarted, run.directory, ignore=shutil.ignore_patterns("checkpoints"))
    kept = Path(shutil.copy(ancestor, tmp_path / "kept"))
    altered(ancestor)
    changed = lightrail("resume", run.run_id, f"--tracking.uri={store}", ALLOW)
    assert changed.status == 2
    assert "restarts from weights that have changed" in changed.err
    shutil.rmtree(run.directory)
    restarted.rename(run.directory)
    ancestor.unlink()
    other = lightrail("resume", run.run_id, f"--tracking.uri={store}", ALLOW, "--model.init_from=null")
    assert "a resumed run cannot change it" in other.err
    resumed = lightrail("resume", run.run_id, f"--tracking.uri={store}", ALLOW)
    assert resumed.status == 0, resumed.err
    predict = ["predict", f"--ckpt_path=runs:/{run.run_id}", f"--data.path={fitted_classifier.folder}/test.jsonl"]
    predicted = lightrail(*predict, f"--output={tmp_path}/out.jsonl", f"--tracking.uri={store}", ALLOW)
    assert predicted.status == 0, predicted.err
    gone = reproduce(run)
    assert gone.status == 2
    assert f"model.init_from={str(ancestor)!r}: " in gone.err
    kept.rename(ancestor)
    same = reproduce(run)
    assert "model.init_from" not in same.out + same.err
    altered(ancestor)
    differs = reproduce(run)
    assert f"  model.init_from ({ancestor}): weights {run.tags['lightrail.init_digest'][:10]} -> " in differs.out
    assert len(runs_in(store)) == 1


def reproduce(run: RecordedRun) -> Outcome:
    """Only compare: its code is in no repository, so that nothing is trained."""
    return lightrail("reproduce", run.run_id, f"--tracking.uri={run.store}", ALLOW, "--data.batch.size=3")


def test_what_cannot_be_used_is_refused_before_a_run_exists(
    fitted_classifier: Fitted, fitted_pinyin: Fitted, tagger: list[str], store: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((fitted_classifier.directory / "checkpoints" / "best.ckpt").read_bytes()[:-2000])
    assert "damaged.ckpt is not a checkpoint that can be read" in refused(
        *tagger, f"--model.init_from={damaged}", store=store
    )
    other = fitted_pinyin.directory / "checkpoints" / "best.ckpt"
    lstm = [*tagger, "--model.encoder=LstmConfig", "--model.encoder.width=10", "--model.encoder.ngram_orders=[]"]
    assert "fits this model: no weights have the same name" in refused(*lstm, f"--model.init_from={other}", store=store)
    assert "model.init_from='nobody': no run 'nobody'" in refused(*tagger, "--model.init_from=nobody", store=store)


def test_an_exported_folder_and_a_file_of_settings(fitted_classifier: Fitted, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    named = f"runs:/{fitted_classifier.run_id}"
    assert main(["export", named, f"--output={exported}", f"--tracking.uri={fitted_classifier.store}"]) == 0
    (tmp_path / "start.yaml").write_text(f"model:\n  init_from: {exported}\n")
    arguments = [*fitted_classifier.arguments, f"--config={tmp_path}/start.yaml"]
    started = build(parse(arguments), "fit")
    assert started.ancestor is not None
    assert not {"new:", "left:", "in part:"} & set(started.ancestor.taken.split())
    for name, value in started.model.named_parameters():
        assert torch.equal(value, fitted_classifier.weights("best")[name]), name


def test_the_seed_draws_the_same_fresh_weights(fitted_classifier: Fitted, tagger: list[str]) -> None:
    """The network of the other run is built too, and must not take random numbers of this one."""
    checkpoint = fitted_classifier.directory / "checkpoints" / "best.ckpt"
    plain, started = (
        dict(build(parse([*tagger, *more]), "fit").model.named_parameters())
        for more in ([], [f"--model.init_from={checkpoint}"])
    )
    assert torch.equal(plain["head.output.weight"], started["head.output.weight"])
    assert not torch.equal(plain["encoder.norm.weight"], started["encoder.norm.weight"])
