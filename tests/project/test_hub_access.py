"""What is loaded by name from the Hugging Face hub: asked once, from the cache where it cannot be reached."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import constants
from transformers import AutoModel

from lightrail.datamodules.reading.hub import load_hub
from lightrail.lightning_modules.networks.loading import from_checkpoint
from lightrail.project.basics.errors import Refusal
from lightrail.project.basics.reading import from_hub
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.tokenizing import load_tokenizer

LOADERS: dict[str, Callable[[str], object]] = {
    "tokenizer": lambda name: load_tokenizer(name, lower_case=False),
    "language tokenizer": load_language_tokenizer,
    "network": lambda name: from_checkpoint(AutoModel, name, None, None, section="encoder"),
    "data set": lambda name: load_hub(f"hub:{name}@train"),
}


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The connections to a hub that closes each of them without an answer."""
    found: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                found.append(address)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        yield found
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_an_unreachable_hub_is_asked_once_and_named(load: Callable[[str], object], connections: list[object]) -> None:
    with pytest.raises(Refusal, match=r"'owner/name' cannot be loaded: no such folder here .*cannot be reached") as own:
        load("owner/name")
    assert all(word in str(own.value) for word in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "local folder", constants.ENDPOINT))
    assert "\n" not in str(own.value)
    assert len(connections) == 1


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("name", ["./none", "/no/such/folder", "a/b/c", "x" * 500, "https://hub.invalid/a", "日本"])
def test_a_misspelt_folder_is_not_asked_for(
    load: Callable[[str], object], name: str, connections: list[object]
) -> None:
    with pytest.raises(Refusal, match=r"no name on the Hugging Face hub, and no such folder here"):
        load(name)
    assert connections == []


def test_what_was_downloaded_before_is_used_where_the_hub_cannot_be_reached(connections: list[object]) -> None:
    with from_hub("data.tokenizer", "owner/name", "Fix it."):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert len(connections) == 1


def test_a_damaged_download_is_not_blamed_on_the_connection(connections: list[object]) -> None:
    with (
        pytest.raises(Refusal, match=r"'owner/name' cannot be loaded: broken\. Fix it"),
        from_hub("data.tokenizer", "owner/name", "Fix it."),
    ):
        raise ValueError("broken")
    assert len(connections) == 1
