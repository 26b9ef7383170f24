"""Losses that depend on all examples of an optimizer step, and predictions that depend on all of a split.

Shapes: N examples of a step or split, over all micro-batches and processes; n of these.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.distributed
from torch import Tensor, nn

from lightrail.lightning_modules.heads.head import Head, own_head

if TYPE_CHECKING:
    from lightrail.lightning_modules.base import TaskModule

Rows: TypeAlias = Mapping[str, Tensor]
"""What a joint loss needs of examples: `vectors`, which gradients flow through, `id`, [N], and others, [N, ...]."""
_ROWS_AT_ONCE = 512


class JointHead(Head):
    """A head for which the loss of an example depends on the others of its step, as that of their contrast.

    The gradient of a step is that of the mean loss over all its examples, however these are spread over micro-batches
    and processes, and an evaluation is one over the whole split, whatever its batches are. `decode` returns what is
    predicted for an example alone.
    """

    @abstractmethod
    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what the loss needs of a batch; see `Rows`."""

    @abstractmethod
    def losses(self, rows: Rows, own: Tensor) -> Tensor:
        """Return the losses of the examples with the indices `own`, [n], among the rows of all examples."""

    @abstractmethod
    def columns(
        self, rows: Rows, own: Tensor, inputs: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Sequence[float] | Sequence[str]]:
        """Return the columns of stored predictions, but `id`, `loss` and those of the input.

        Args:
            rows: those of the whole split, in float64 on the CPU, in the order of the ids.
            own: indices of the examples to predict, [n].
            inputs: the task's `input_columns` of the whole split.
        """

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the mean loss of a batch that is all of a step, and the number of its examples."""
        rows = self.rows(outputs, batch)
        losses = self.losses(rows, torch.arange(len(rows["id"]), device=rows["id"].device))
        return losses.mean(), len(losses)


def joint_head(task: nn.Module) -> JointHead | None:
    """Return the joint head of a task, its attribute `head`; None without one."""
    head = own_head(task)
    return head if isinstance(head, JointHead) else None


class _Part(NamedTuple):
    batch: Mapping[str, Any]
    random_state: list[Tensor]
    rows: dict[str, Tensor]


class JointStep:
    """The loss of an optimizer step over all its micro-batches and processes.

    Micro-batches but the last are embedded without a graph. With the last, the loss of all gives the gradient of each
    vector, which then flows back through each micro-batch: that is embedded again, with the random numbers of its
    first pass. So memory is that of one micro-batch.

    Source: L. Gao et al. (2021), "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
    """

    def __init__(self) -> None:
        self._earlier: list[_Part] = []

    def loss(
        self, task: "TaskModule", head: JointHead, batch: Mapping[str, Any], batch_idx: int, weight: float
    ) -> tuple[Tensor, int]:
        """Return the mean loss of this process's examples and their number; 0 and 0 before the step's last micro-batch.

        Args:
            batch_idx: number of the micro-batch in its epoch.
            weight: what a loss is multiplied by while gradients add up.
        """
        state, trainer = _random_state(task.device), task.trainer
        num_parts = trainer.accumulate_grad_batches
        is_at_end = batch_idx + 1 >= trainer.num_training_batches or trainer.is_last_batch
        if (batch_idx + 1) % num_parts and not is_at_end:
            with torch.no_grad():
                self._earlier.append(_Part(batch, state, _counted(head.rows(task(batch), batch), batch)))
            return torch.zeros((), device=task.device, requires_grad=True), 0
        last = head.rows(task(batch), batch)
        earlier, self._earlier = self._earlier, []
        parts = [*(part.rows for part in earlier), _counted(last, batch)]
        with torch.autocast(task.device.type, enabled=False):
            losses, gradients = _losses_and_gradients(head, parts)
            for part, gradient in zip(earlier, gradients, strict=False):
                if len(gradient):
                    with _random_numbers(part.random_state, task.device):
                        again = head.rows(_as_before(task, part.batch), part.batch)
                    # Divided as Lightning divides the loss that is returned.
                    trainer.strategy.backward(_flow(again["vectors"], gradient) * (weight / num_parts), None)
            flow = _flow(last["vectors"], gradients[-1])
        num_own = max(1, len(losses))
        return (losses.sum() + flow - flow.detach()) / num_own, len(losses)


def _as_before(task: "TaskModule", batch: Mapping[str, Any]) -> Any:
    with task.trainer.precision_plugin.forward_context():
        return task(batch)


def _losses_and_gradients(head: JointHead, parts: Sequence[Rows]) -> tuple[Tensor, list[Tensor]]:
    """Return the losses of this process's examples, [n], and for each part the gradients of the sum of all losses."""
    rows, own = gathered({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    vectors = rows["vectors"].detach().requires_grad_()
    with torch.enable_grad():
        losses = head.losses({**rows, "vectors": vectors}, torch.arange(len(vectors), device=vectors.device))
        (gradients,) = torch.autograd.grad(losses.sum(), vectors)
    return losses.detach()[own], list(torch.split(gradients[own], [len(part["id"]) for part in parts]))


def _flow(vectors: Tensor, gradients: Tensor) -> Tensor:
    """Return a number whose gradient with respect to the vectors is the given one, 0 for a filler."""
    if not len(gradients):
        return vectors.sum() * 0.0  # every process has to take part with every weight
    return (vectors * gradients.to(vectors.dtype)).sum()


def _counted(rows: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: own[:0] for name, own in rows.items()} if batch["is_filler"] else rows


def gathered(own: Rows) -> tuple[dict[str, Tensor], Tensor]:
    """Return the rows of all processes in the order of their ids, and the indices of this process's among them, [n].

    Every process must call this. Nothing is differentiated through it.
    """
    rows = {name: values.detach() for name, values in own.items()}
    rank = 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        rows = {name: _from_all(values) for name, values in rows.items()}
        counts = _from_all(torch.tensor([len(own["id"])], device=own["id"].device))
    else:
        counts = torch.tensor([len(own["id"])])
    order = rows["id"].argsort(stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    start = int(counts[:rank].sum())
    return {name: values[order] for name, values in rows.items()}, places[start : start + int(counts[rank])]


def _from_all(values: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks."""
    num_processes = torch.distributed.get_world_size()
    counts = [torch.zeros((), dtype=torch.int64, device=values.device) for _ in range(num_processes)]
    torch.distributed.all_gather(counts, torch.tensor(len(values), device=values.device))
    most = int(torch.stack(counts).max())
    padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])]).contiguous()
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


class JointSplit:
    """The examples of an evaluation, whose predictions are made when all are known."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []
        self._inputs: dict[str, list[Any]] = defaultdict(list)

    def add(self, rows: Rows, batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """Add a batch: its rows, and those of its entries that are stored beside the predictions."""
        self._rows.append({name: _exact(values) for name, values in rows.items()})
        for name in names:
            self._inputs[name].extend(batch.get(name, ()))

    def columns(self, head: JointHead) -> dict[str, Sequence[Any]]:
        """Return the columns of this process's examples, {} without any, and forget them. Every process calls this."""
        parts, inputs = self._parts()
        names = next((part[0].keys() for part in parts if part), None)
        self._rows, self._inputs = [], defaultdict(list)
        if names is None:
            return {}
        rows = {name: torch.cat([own[name] for part in parts for own in part]) for name in names}
        order = rows["id"].argsort(stable=True)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        rows = {name: values[order] for name, values in rows.items()}
        sizes = [sum(len(own["id"]) for own in part) for part in parts]
        rank = torch.distributed.get_rank() if len(parts) > 1 else 0
        own = places[sum(sizes[:rank]) : sum(sizes[: rank + 1])]
        known = {name: [values[number] for number in order.tolist()] for name, values in inputs.items() if values}
        columns: dict[str, list[Any]] = {"id": rows["id"][own].tolist()}
        columns |= {name: [values[number] for number in own.tolist()] for name, values in known.items()}
        for some in torch.split(own, _ROWS_AT_ONCE):
            found = {**head.columns(rows, some, known), "loss": head.losses(rows, some).tolist()}
            for name, values in found.items():
                columns.setdefault(name, []).extend(values)
        return dict(columns)

    def _parts(self) -> tuple[list[list[dict[str, Tensor]]], dict[str, list[Any]]]:
        """Return the rows of each process, and the inputs of all in the same order."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return [self._rows], dict(self._inputs)
        every: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, (self._rows, dict(self._inputs)))
        inputs: dict[str, list[Any]] = defaultdict(list)
        for _, own in every:
            for name, values in own.items():
                inputs[name].extend(values)
        return [rows for rows, _ in every], inputs


def _exact(values: Tensor) -> Tensor:
    values = values.detach().cpu()
    return values.double() if values.is_floating_point() else values


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _random_numbers(state: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Draw from a state of the generators, and leave them as they were."""
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.set_rng_state(state[0])
        if is_cuda:
            torch.cuda.set_rng_state(state[1], device)
        yield
