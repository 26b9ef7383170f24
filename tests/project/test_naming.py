"""The ways to name a run or a checkpoint, which are the same for all commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.naming import NUM_SEARCHED, find_checkpoint, find_run
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.running import Fitted, lightrail

Start = Callable[[str], TrackedRun]


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(store)


@pytest.fixture
def start(store: str) -> Start:
    return lambda name: start_run(TrackingConfig(uri=store, run_name=name), {}, {})


@pytest.fixture
def made(client: MlflowClient) -> Callable[..., str]:
    """Makes a run in the store alone, with an id of the test's choice."""

    def make(run_id: str, name: str, start_time: int = 0, **tags: str) -> str:
        from lightrail.project.basics.private_names import tracking_store

        made = client.create_run("0", start_time=start_time, run_name=name, tags=tags).info.run_id
        with tracking_store(client).engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            for table in ("runs", "tags"):
                connection.exec_driver_sql(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (run_id, made))
        return run_id

    return make


def refusal(client: MlflowClient, named: str) -> str:
    with pytest.raises(ConfigError) as caught:
        find_run(client, named)
    return str(caught.value)


def test_a_run_is_named_by_id_beginning_name_address_and_folder(client: MlflowClient, start: Start) -> None:
    run, _ = start("a first/one's"), start("other")
    texts = [run.run_id, run.run_id[:8], "a first/one's", f"runs:/{run.run_id}", f"runs:/{run.run_id[:6]}/config.yaml"]
    folders = [run.directory, run.directory.parent, run.directory / "checkpoints"]
    for named in (*texts, *map(str, folders)):
        assert find_run(client, named).info.run_id == run.run_id


def test_a_registered_model_is_the_run_that_it_came_from(client: MlflowClient, start: Start, store: str) -> None:
    run = start("one")
    client.create_registered_model("taggers")
    client.create_model_version("taggers", "runs:/somewhere", run_id=run.run_id)
    client.create_model_version("taggers", "runs:/nowhere")
    client.set_registered_model_alias("taggers", "best", "1")
    best = run.directory / "checkpoints" / "best.ckpt"
    best.write_text("")
    for named in ("models:/taggers/1", "models:/taggers@best"):
        assert find_run(client, named).info.run_id == run.run_id
        assert find_checkpoint(named, TrackingConfig(uri=store)) == best
    assert "'models:/taggers/2' was registered without a run. Name the run by its id." in refusal(
        client, "models:/taggers/2"
    )
    assert refusal(client, "models:/tagers/1").endswith("Did you mean models:/taggers?")
    assert "is not in the model registry: " in refusal(client, "models:/taggers@worst")
    assert "Write models:/NAME/VERSION or models:/NAME@ALIAS." in refusal(client, "models:/taggers")


def test_several_runs_of_a_name_or_a_beginning_are_listed_newest_first(
    client: MlflowClient, made: Callable[..., str]
) -> None:
    old, new = made("abcd" + "1" * 28, "same", 1_000), made("abcd" + "2" * 28, "same", 2_000)
    listed = r"abcd2222 \(same, started \d\d-\d\d \d\d:\d\d, RUNNING\), abcd1111 \(same, .*\)\. Name one by its id\."
    for named, problem in (("same", "are named 'same'"), ("abcd", "have ids that begin with 'abcd'")):
        with pytest.raises(ConfigError, match=f"^2 runs {problem}: {listed}$"):
            find_run(client, named)
    assert find_run(client, "abcd1").info.run_id == old
    assert find_run(client, "runs:/abcd2").info.run_id == new
    long = [made("ef" + "0" * 29 + end, "alike") for end in "12"]
    assert all(run_id in refusal(client, "alike") for run_id in long)  # where beginnings do not tell them apart


def test_a_name_comes_before_a_beginning_and_a_group_before_its_runs(
    client: MlflowClient, made: Callable[..., str]
) -> None:
    made("feed" + "0" * 28, "one")
    named = made("1" * 32, "feed")
    made("2" * 32, "feed", **{"mlflow.parentRunId": named})
    assert find_run(client, "feed").info.run_id == named
    assert find_run(client, "feed0").info.run_id == "feed" + "0" * 28


def test_a_run_that_there_is_not_gets_what_was_searched_and_the_nearest(client: MlflowClient, start: Start) -> None:
    assert refusal(client, "abc").endswith("The store holds no runs.")
    run = start("baseline")
    wrong = ("0" if run.run_id[0] != "0" else "1") + run.run_id[1:]
    found = f"Did you mean: {run.run_id[:8]} (baseline, started "
    searched = f"no id in {client.tracking_uri} begins so, and no run, file or folder has this name. "
    assert f"no run '{wrong}': {searched}{found}" in refusal(client, wrong)
    assert f"no run 'basline': {searched}{found}" in refusal(client, "runs:/basline")
    for named in ("x y", "", "'\"", "a/b", "%%%%", run.run_id[:3]):
        assert f"{searched}The last runs are: {run.run_id[:8]}" in refusal(client, named)


def test_a_path_wins_where_it_is_written_as_one_or_nothing_else_matches(
    client: MlflowClient, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named, copied = start("copy"), start("other")
    shutil.copytree(copied.directory, tmp_path / "copy")
    assert find_run(client, "copy").info.run_id == named.run_id
    assert find_run(client, "./copy").info.run_id == copied.run_id
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert find_run(client, "moved").info.run_id == copied.run_id
    own = {"task": "x", "run": {"id": copied.run_id}, "state_dict": {}, "hyper_parameters": {}}
    torch.save(own, tmp_path / "own.ckpt")
    assert find_run(client, "own.ckpt").info.run_id == copied.run_id


def test_a_path_that_names_no_run_is_refused(client: MlflowClient, tmp_path: Path) -> None:
    identity = tmp_path / "run.json"
    assert "does not name its run. Name the run by its id." in refusal(client, str(tmp_path))
    identity.write_text(json.dumps({"run_id": "0" * 32}))
    assert f"belongs to the run '{'0' * 32}', which {client.tracking_uri} does not hold" in refusal(
        client, str(tmp_path)
    )
    for damaged in ("{", "[]", '{"run_id": 1}'):
        identity.write_text(damaged)
        assert "Restore the file from a copy" in refusal(client, str(tmp_path))
    for missing in (f"{tmp_path}/x", "./x", "x.ckpt"):
        assert "no such file or folder. Check the path, or name a run by its id" in refusal(client, missing)


def test_a_checkpoint_is_a_file_or_the_best_of_a_folder_and_needs_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db")
    best = tmp_path / "run" / "artifacts" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    (best.parent / "last.ckpt").write_text("")
    with pytest.raises(ConfigError, match=r"has no best\.ckpt\. Name another checkpoint there: .*/last\.ckpt"):
        find_checkpoint("./run", nowhere)
    best.write_text("")
    for folder in (best, best.parent, best.parent.parent, tmp_path / "run"):
        assert find_checkpoint(str(folder), nowhere) == best
    assert find_checkpoint("run", nowhere).resolve() == best
    assert find_checkpoint(str(tmp_path), nowhere) == tmp_path  # as an exported model
    with pytest.raises(ConfigError, match=r"missing\.ckpt': no such file"):
        find_checkpoint(str(tmp_path / "missing.ckpt"), nowhere)
    with pytest.raises(ConfigError, match=r"a{50}.* is no file or folder here, and no run: .*none\.db: no runs"):
        find_checkpoint("a" * 5000, nowhere)
    assert not (tmp_path / "none.db").exists()


def test_a_large_store_is_not_read_as_a_whole(
    client: MlflowClient, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, numbers = start("one"), []
    search = MlflowClient.search_runs

    def counted(*arguments: object, **named: int) -> object:
        numbers.append(named["max_results"])
        return search(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "search_runs", counted)
    assert find_run(client, run.run_id).info.run_id == run.run_id
    assert numbers == []
    assert find_run(client, run.run_id[:8]).info.run_id == run.run_id
    refusal(client, "none")
    assert set(numbers) == {NUM_SEARCHED}


@pytest.mark.parametrize("by", ["name", "folder"])
def test_commands_take_each_way(fitted_classifier: Fitted, tmp_path: Path, by: str) -> None:
    run = fitted_classifier
    name = run.client.get_run(run.run_id).info.run_name
    named, store = name if by == "name" else str(run.directory), f"--tracking.uri={run.store}"
    finished = f"run {run.run_id} is finished"
    assert finished in lightrail("resume", named, store).err
    assert lightrail("export", named, "--output", str(tmp_path / "model"), store).status == 0
    assert "writes no text" in lightrail("generate", named, "--prompt=x", store).err
    assert f"run {run.run_id} " in lightrail("compare", named, run.run_id, store).err
    assert lightrail("reproduce", named, "--check_only", store).out
    (tmp_path / "new.txt").write_text("good\n")
    predicted = lightrail("predict", f"--ckpt_path={named}", f"--data.path={tmp_path}/new.txt", *store.split())
    assert predicted.status == 0
