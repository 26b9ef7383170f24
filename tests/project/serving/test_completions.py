"""Texts over OpenAI's protocol are those of `lightrail generate`, whole and streamed, with OpenAI's own client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.serving.limits import Limits
from tests.support.language_model import TEXTS, language_model, write_checkpoint
from tests.support.running import lightrail
from tests.support.serving import Running, loaded, running

LIMITS = Limits(max_tokens=60, max_samples=4, max_characters=50)
CHAT = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(language_model(), tmp_path_factory.mktemp("language") / "tiny.ckpt")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Running]:
    with running(loaded(checkpoint, LIMITS), LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


OPTIONS: dict[str, Any] = {"model": "tiny.ckpt", "max_tokens": 20, "temperature": 0.7, "seed": 3}


def generated(checkpoint: Path, prompt: str, *more: str) -> str:
    options = ["--max_tokens=20", "--temperature=0.7", "--seed=3", *more]
    outcome = lightrail("generate", str(checkpoint), f"--prompt={prompt}", *options)
    assert outcome.status == 0, outcome.err
    return outcome.out.removesuffix("\n")


def test_a_completion_is_the_text_of_the_command(client: openai.OpenAI, checkpoint: Path) -> None:
    assert [model.id for model in client.models.list()] == ["tiny.ckpt"]
    found = client.completions.create(prompt="to", **OPTIONS)
    assert found.choices[0].text == generated(checkpoint, "to")
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 20)
    stopped = client.completions.create(prompt="to", stop=found.choices[0].text[5:7], **OPTIONS).choices[0]
    assert (stopped.text, stopped.finish_reason) == (found.choices[0].text[:5], "stop")
    several = client.completions.create(prompt=["to", "be"], n=2, **OPTIONS).choices
    assert [own.index for own in several] == [0, 1, 2, 3]
    assert several[0].text == found.choices[0].text != several[1].text
    assert several[2].text == generated(checkpoint, "be")


def test_a_streamed_completion_comes_in_pieces(client: openai.OpenAI, checkpoint: Path) -> None:
    events = list(
        client.completions.create(prompt="to", stream=True, stream_options={"include_usage": True}, **OPTIONS)
    )
    pieces = [event.choices[0].text for event in events if event.choices]
    assert "".join(pieces) == generated(checkpoint, "to")
    assert len(pieces) > 10
    assert events[-2].choices[0].finish_reason == "length"
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == 23


def test_streams_at_a_time_do_not_mix(client: openai.OpenAI, checkpoint: Path) -> None:
    options = {**OPTIONS, "stream": True}
    streams = [client.completions.create(prompt=prompt, **options) for prompt in ("to", "be", "花")]
    texts = ["", "", ""]
    for events in zip(*streams, strict=True):  # all have as many tokens
        texts = [text + event.choices[0].text for text, event in zip(texts, events, strict=True)]
    assert texts == [generated(checkpoint, prompt) for prompt in ("to", "be", "花")]


def test_a_conversation_is_formatted_by_the_chat_template(tmp_path: Path) -> None:
    facts = {**load_language_tokenizer("characters", TEXTS).facts(), "chat_template": CHAT}
    model = language_model(LanguageTokenizer.from_facts(facts))
    path = write_checkpoint(model, tmp_path / "tiny.ckpt")
    with (
        running(loaded(path)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert server.get("/about").json()["chats"]
        turns: Any = [{"role": "user", "content": [{"type": "text", "text": "to be"}]}]
        whole = client.chat.completions.create(messages=turns, **OPTIONS).choices[0].message
        assert (whole.role, whole.content) == ("assistant", generated(path, "to be", "--chat"))
        events = list(client.chat.completions.create(messages=turns, stream=True, **OPTIONS))
        assert events[0].choices[0].delta.role == "assistant"
        assert "".join(event.choices[0].delta.content or "" for event in events) == whole.content


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": "gpt"}, 404, "there is no model 'gpt': this server has tiny.ckpt."),
    "too many tokens": ({"max_tokens": 61}, 400, "max_tokens is 61, and this server generates at most 60."),
    "no number": ({"max_tokens": "a"}, 400, "max_tokens: expected a whole number"),
    "a temperature": ({"temperature": -1}, 400, "temperature: expected a number of at least 0"),
    "no seed": ({"seed": -1}, 400, "seed: expected"),
    "too many samples": ({"n": 5}, 400, "5 samples are asked for, and a request may have 4."),
    "a long prompt": ({"prompt": "a" * 51}, 413, "the prompt has 51 characters, more than 50."),
    "tokens": ({"prompt": [1, 2]}, 400, "prompt: expected a text, or a list of texts, found [1, 2]."),
    "no stop": ({"stop": [""]}, 400, "stop: expected a text, or up to 16 texts"),
    "not offered": ({"logprobs": 2}, 400, "logprobs is not offered here, found 2. Leave it out."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_for_a_text_is_refused_in_one_line(name: str, server: Running) -> None:
    body, status, message = REFUSED[name]
    answer = server.post("/v1/completions", {"prompt": "a", **body})
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_model_without_a_chat_template_refuses_conversations(server: Running, client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.BadRequestError, match="has no chat template"):
        client.chat.completions.create(model="tiny.ckpt", messages=turns)
    for messages in ([], [{"role": "user"}], "a"):
        answer = server.post("/v1/chat/completions", {"messages": messages})
        assert (answer.status_code, "messages" in answer.text) == (400, True)


def test_a_client_that_leaves_a_stream_ends_its_text(checkpoint: Path) -> None:
    limits = Limits(max_tokens=100_000)
    with running(loaded(checkpoint, limits), limits) as server:
        body = {"prompt": "to", "max_tokens": 100_000, "stream": True}
        with server.post("/v1/completions", body, stream=True) as answer:
            assert next(answer.iter_content(None))
        # A text of so many tokens takes minutes: what comes after it would wait until the server gives it up.
        assert server.post("/v1/completions", {"prompt": "be", "max_tokens": 2}).status_code == 200
