"""Upload of an exported folder to the Hugging Face hub."""

import os
import re
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, first_line, shown, without_password

_NAME = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")


def check_repository(name: str) -> None:
    """Refuse, before anything is written, what is no name of a repository, or no token. Raises: ConfigError."""
    from huggingface_hub import get_token

    if not _NAME.fullmatch(name):
        raise ConfigError(f"--push {shown(name)} is no repository. Give OWNER/NAME.")
    if not get_token():
        raise ConfigError(
            "--push needs a token of the Hugging Face hub that may write. Set HF_TOKEN, or log in: hf auth login."
        )


def push(folder: Path, name: str, *, is_private: bool) -> str:
    """Upload a folder as one commit, into a repository that is created unless it is there, and return its address.

    Args:
        name: `OWNER/NAME`.
        is_private: whether a repository that is created is private.

    Raises: ConfigError when the hub cannot be reached or refuses it.
    """
    from huggingface_hub import HfApi, constants, get_session

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    api = HfApi(endpoint=endpoint)
    what = f"--push {shown(name)}: {without_password(endpoint)}"
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"{what} is not asked, since HF_HUB_OFFLINE is set. Unset it.")
    try:
        # Once, and at first: later requests are repeated for minutes when nobody answers.
        get_session().head(endpoint, timeout=10)
    except Exception as error:  # those of whichever HTTP library the hub's uses
        raise ConfigError(
            f"{what} cannot be reached ({first_line(error)}). Check the connection and HF_ENDPOINT; the folder is at "
            f"{folder}."
        ) from error
    try:
        address = api.create_repo(name, private=is_private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by lightrail")
    except Exception as error:
        raise ConfigError(
            f"{what} refuses the upload: {first_line(error)}. Check the name, and that the token may write there; the "
            f"folder is at {folder}."
        ) from error
    return str(address)
