"""What a server refuses, in one line, and what it does for clients that are many, slow or gone."""

import json
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
import requests

from lightrail.project.serving.guard import Access
from lightrail.project.serving.limits import Limits
from tests.support.serving import SECONDS_TO_HANG, HeldEngine, Running, held, running

SMALL = Limits(max_texts=3, max_characters=10, max_body_mb=0.001)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    engine = HeldEngine()
    engine.may_go.set()
    with running(held(engine), SMALL, Access(hosts=frozenset({"127.0.0.1"}))) as found:
        yield found


REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": ("/predict", "{", 400, "the body is no JSON"),
    "no UTF-8": ("/predict", b"\xff", 400, "the body is no JSON"),
    "not a number": ("/predict", '{"text": NaN}', 400, "it has NaN, which is no number"),
    "deep": ("/predict", "[" * 900, 400, "the body is no JSON"),
    "another key": ("/predict", {"words": "a"}, 400, "the body has ['words']. Send one of text, texts"),
    "two keys": ("/predict", {"text": "a", "texts": ["b"]}, 400, "Send one of text, texts"),
    "no list": ("/predict", {"texts": "a"}, 400, "texts: expected a list, found 'a'."),
    "nothing": ("/predict", {"texts": []}, 400, "there is no input"),
    "refused by the model": ("/predict", {"text": "bad"}, 400, "input:1: it is bad."),
    "a mistake": ("/predict", {"text": "worse"}, 500, "the server failed at this request; see its log."),
    "many": ("/predict", {"texts": ["a"] * 4}, 413, "4 inputs, more than 3."),
    "long": ("/predict", {"text": "a" * 11}, 413, "input 1 has 11 characters, more than 10."),
    "large": ("/predict", "a" * 2000, 413, "the body has more than 0.001 MB."),
    "no text": ("/v1/completions", {"prompt": "a"}, 404, "this model continues no texts. Use /predict."),
    "no route": ("/predictions", {}, 404, "there is no such route"),
    "params": ("/invocations", {"inputs": ["a"], "params": {"a": 1}}, 400, "and no params."),
    "no format": ("/invocations", {"data": ["a"]}, 400, "Send one of dataframe_split"),
    "a ragged frame": ("/invocations", {"dataframe_split": {"columns": ["a"], "data": [[]]}}, 400, "row 1: expected 1"),
    "ragged columns": ("/invocations", {"inputs": {"a": [1], "b": []}}, 400, "different numbers of values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused_in_one_line(name: str, server: Running) -> None:
    path, body, status, message = REFUSED[name]
    answer = server.post(path, body)
    assert answer.status_code == status
    (key,) = answer.json()
    assert (key, message in answer.json()["error"]["message"]) == ("error", True), answer.text
    assert "\n" not in answer.text
    assert "Traceback" not in answer.text


def test_chunks_are_counted_and_other_methods_and_types_refused(server: Running) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"[" * 600] * 3

    assert requests.post(f"{server.url}/predict", data=chunks(), timeout=SECONDS_TO_HANG).status_code == 413
    assert server.get("/predict").status_code == 405
    form = {"headers": {"content-type": "application/x-www-form-urlencoded"}}
    assert server.post("/invocations", "inputs=a", **form).status_code == 415


def test_pages_of_other_sites_cannot_ask(server: Running) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        answer = server.get("/about", headers=headers)
        assert (answer.status_code, "as another host" in answer.text or "other sites" in answer.text) == (403, True)
    own = {"host": f"127.0.0.1:{server.port}", "origin": server.url}
    assert server.get("/about", headers=own).status_code == 200


def test_a_token_is_asked_for() -> None:
    engine = HeldEngine()
    engine.may_go.set()
    with running(held(engine), access=Access(token="secret")) as server:
        assert [server.get(path).status_code for path in ("/", "/ping", "/health")] == [200] * 3
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "secret"}):
            answer = server.post("/predict", {"text": "a"}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert server.post("/predict", {"text": "a"}, headers={"authorization": "Bearer secret"}).json() == {
            "predictions": [{"length": 1}]
        }
        assert server.get("/metrics").status_code == 401


def asking(server: Running, texts: list[str], clients: ThreadPoolExecutor) -> list[Any]:
    return [clients.submit(server.post, "/predict", {"text": text}) for text in texts]


def wait_until_waiting(server: Running, number: int) -> None:
    while f"lightrail_waiting_requests {number}.0" not in server.get("/metrics").text:
        pass


def test_too_many_are_refused_and_those_that_wait_are_answered_together() -> None:
    engine = HeldEngine()
    with running(held(engine), Limits(max_queue=3)) as server, ThreadPoolExecutor(4) as clients:
        first = asking(server, ["a"], clients)
        assert engine.has_begun.wait(SECONDS_TO_HANG)
        others = asking(server, ["bb", "bad", "worse"], clients)
        wait_until_waiting(server, 3)
        refused = server.post("/predict", {"text": "dddd"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["message"] == "3 requests wait already. Try again in a moment."
        engine.may_go.set()
        answers = [own.result() for own in (*first, *others)]
        assert [own.status_code for own in answers] == [200, 200, 400, 500]
        assert answers[1].json() == {"predictions": [{"length": 2}]}
        assert sorted(engine.batches[1]) == ["bb", "worse"], "together"
        assert sorted(map(tuple, engine.batches[2:])) == [("bb",), ("worse",)], "each alone, since one failed"


def test_what_a_client_asked_for_that_has_left_is_not_begun() -> None:
    engine = HeldEngine()
    with running(held(engine)) as server, ThreadPoolExecutor(4) as clients:
        first = asking(server, ["a"], clients)
        assert engine.has_begun.wait(SECONDS_TO_HANG)
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            body = json.dumps({"text": "left"}).encode()
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
            wait_until_waiting(server, 1)
        while not server.count(499):
            pass
        last = asking(server, ["last"], clients)
        wait_until_waiting(server, 2)
        engine.may_go.set()
        assert [own.result().status_code for own in (*first, *last)] == [200, 200]
    assert engine.batches == [["a"], ["last"]]


def test_a_slow_client_holds_nobody_up() -> None:
    engine = HeldEngine()
    engine.may_go.set()
    limits = Limits(timeout_seconds=0.5)
    with running(held(engine), limits) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(SECONDS_TO_HANG)
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n[")
        assert server.post("/predict", {"text": "fast"}).status_code == 200
        assert b" 408 " in slow.recv(1000).splitlines()[0]


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    engine = HeldEngine()
    with running(held(engine), Limits(timeout_seconds=0.2)) as server:
        answer = server.post("/predict", {"text": "a"})
        assert (answer.status_code, "no answer within 0.2 s" in answer.text) == (503, True)
        engine.may_go.set()


def test_a_server_that_is_stopped_answers_what_it_has_taken() -> None:
    engine = HeldEngine()
    with running(held(engine)) as server, ThreadPoolExecutor(4) as clients:
        taken = asking(server, ["a"], clients)
        assert engine.has_begun.wait(SECONDS_TO_HANG)
        taken += asking(server, ["bb", "ccc"], clients)
        wait_until_waiting(server, 2)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        while _is_open(server.port):
            pass
        engine.may_go.set()
        assert [own.result().json()["predictions"][0]["length"] for own in taken] == [1, 2, 3]
        stopping.join(SECONDS_TO_HANG)
        assert not server.thread.is_alive()


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionError:
        return False


def test_clients_of_mlflow_are_answered(server: Running) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    client = ScoringServerClient("127.0.0.1", server.port)
    client.wait_server_ready()
    assert client.get_version().startswith("3.")
    expected = [{"length": 4}, {"length": 1}]
    assert client.invoke(pd.DataFrame({"text": ["long", "a"]})).get_predictions().to_dict("records") == expected
    for key in ("instances", "inputs"):
        assert server.post("/invocations", {key: ["long", "a"]}).json() == {"predictions": expected}
    csv = server.post("/invocations", "text\na\n", headers={"content-type": "text/csv"})
    assert csv.status_code == 200
    assert server.get("/openapi.json").json()["paths"].keys() >= {"/predict", "/invocations", "/v1/completions"}
