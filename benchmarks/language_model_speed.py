"""Time of a training step of a small language model, compared with the same recipe as a plain PyTorch loop.

The recipe is nanoGPT's for a CPU: characters, 4 layers of width 128, blocks of 64, batches of 12, no dropout, float32.
The plain loop here follows that recipe; lightrail runs as for users, in the precision that it chooses for the machine,
tracked in MLflow, from command-line settings to the last step. Both train in one process, alternately, several times;
the result is the ratio of the medians.
Run: OMP_NUM_THREADS=1 python -m benchmarks.language_model_speed --text FILE (tinyshakespeare; two minutes)
"""

import argparse
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightrail.project.basics.hardware import set_threads
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.project.running.fitting import begin

LAYERS, HEADS, WIDTH, BLOCK, BATCH = 4, 4, 128, 64, 12
LR, FINAL_LR, WARMUP, BETAS, DECAY = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1
NOT_TIMED = 10
"""Number of untimed steps at the start of each run."""


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = arguments.text.read_text(encoding="utf-8")
        (folder / "train.txt").write_text(text[: len(text) * 9 // 10], encoding="utf-8")
        (folder / "rest.txt").write_text(text[len(text) * 9 // 10 :][:5000], encoding="utf-8")
        programs: dict[str, Callable[[int], tuple[float, int]]] = {
            "plain PyTorch, float32": lambda steps: _plain(text, steps),
            "lightrail": lambda steps: _lightrail(folder, steps, []),
            "lightrail, compiled": lambda steps: _lightrail(folder, steps, ["--model.decoder.is_compiled=true"]),
            "lightrail, float32": lambda steps: _lightrail(folder, steps, ["--trainer.precision=32-true"]),
        }
        for run in programs.values():  # warm-up, not timed
            run(20)
        rounds = [{program: run(arguments.steps) for program, run in programs.items()} for _ in range(arguments.rounds)]
    print(f"\n{arguments.steps} steps, median of {arguments.rounds} rounds, {torch.get_num_threads()} threads\n")
    print(f"{'program':26} {'parameters':>10} {'ms/step':>9} {'time / plain':>12}")
    medians = {program: statistics.median(each[program][0] for each in rounds) for program in programs}
    for program, median in medians.items():
        share = median / medians["plain PyTorch, float32"]
        print(f"{program:26} {rounds[0][program][1]:10,} {1000 * median:9.1f} {share:12.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a plain text of about a million characters")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _lightrail(folder: Path, steps: int, more: list[str]) -> tuple[float, int]:
    """Return seconds per step, and the number of parameters."""
    settings = {
        "model": "CausalLM",
        "model.decoder": "TransformerDecoderConfig",
        "model.decoder.width": WIDTH,
        "model.decoder.depth": LAYERS,
        "model.decoder.num_heads": HEADS,
        "model.decoder.dropout": 0,
        "model.optim.lr": LR,
        "model.optim.final_fraction": FINAL_LR / LR,
        "model.optim.beta2": BETAS[1],
        "model.optim.weight_decay": DECAY,
        "model.optim.schedule": "cosine",
        "model.optim.warmup_fraction": 0.05,
        "data": "CausalLMData",
        "data.path": folder / "train.txt",
        "data.validation_path": folder / "rest.txt",
        "data.test_path": folder / "rest.txt",
        "data.document": "file",
        "data.tokenizer": "characters",
        "data.blocks.method": "sliding",
        "data.blocks.length": BLOCK,
        "data.blocks.stride": 1,
        "data.batch.size": BATCH,
        "trainer.max_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.gradient_clip_val": 1.0,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    experiment = build(parse([*(f"--{name}={value}" for name, value in settings.items()), *more]), "fit")
    experiment.trainer.callbacks = [  # type: ignore[attr-defined]
        callback
        for callback in experiment.trainer.callbacks  # type: ignore[attr-defined]
        if "Checkpoint" not in type(callback).__name__  # the plain loop writes none either
    ]
    clock = _Clock()
    experiment.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    run = begin(experiment, kind="benchmark")
    with run.status():
        experiment.trainer.fit(experiment.model, datamodule=experiment.data)
    return clock.seconds_per_step, sum(parameter.numel() for parameter in experiment.model.parameters())


class _Clock(Callback):
    """Times the steps after the first few, which include setup and compilation."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == NOT_TIMED:
            self._started = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            self.seconds_per_step = (time.perf_counter() - self._started) / (trainer.max_steps - NOT_TIMED)


def _plain(text: str, steps: int) -> tuple[float, int]:
    """Return seconds per step, and the number of parameters."""
    torch.manual_seed(0)
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    stream = torch.tensor([numbers[character] for character in text[: len(text) * 9 // 10]])
    model = _Gpt(len(numbers))
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS)
    for step in range(steps):
        if step == NOT_TIMED:
            started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        starts = torch.randint(len(stream) - BLOCK, (BATCH,))
        places = starts[:, None] + torch.arange(BLOCK)
        loss = F.cross_entropy(model(stream[places]).flatten(0, 1), stream[places + 1].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # the recipe prints each loss
    return (time.perf_counter() - started) / (steps - NOT_TIMED), sum(
        parameter.numel() for parameter in model.parameters()
    )


def _rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    return FINAL_LR + (LR - FINAL_LR) * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))) / 2


class _Gpt(nn.Module):
    """GPT-2 without biases, with tied embeddings."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(num_tokens, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                std = 0.02 / math.sqrt(2 * LAYERS) if name.endswith("out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            states = block(states)
        logits: Tensor = F.linear(self.norm(states), self.tokens.weight)
        return logits


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.attention, self.attention_out = (
            nn.Linear(WIDTH, 3 * WIDTH, bias=False),
            nn.Linear(WIDTH, WIDTH, bias=False),
        )
        self.hidden, self.hidden_out = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        rows, length, width = states.shape
        heads = self.attention(self.first_norm(states)).view(rows, length, 3, HEADS, width // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.attention_out(attended.transpose(1, 2).reshape(rows, length, width))
        hidden = F.gelu(self.hidden(self.second_norm(states)))
        out: Tensor = states + self.hidden_out(hidden)
        return out


if __name__ == "__main__":
    main()
