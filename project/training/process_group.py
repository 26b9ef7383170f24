"""The group of processes that train together, left while Python still runs."""

import atexit
from functools import cache

import torch.distributed


@cache
def leave_at_exit() -> None:
    """Have this process leave its group, if it is in one by then, before the interpreter is taken down.

    Gloo's threads free tensors a moment after each operation. One that does so while the interpreter ends aborts the
    process (pytorch/pytorch#179291), and Lightning's launcher then kills the first process, which has the end of the
    run to write.
    """
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
