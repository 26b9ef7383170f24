"""`lightrail generate`: text of a trained language model, streamed while it is generated."""

import argparse
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from lightrail.project.basics.annotations import PositiveInt, check_range
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.reading import user_path

if TYPE_CHECKING:
    from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig
    from lightrail.project.models.generating import ResponseModel, TextModel

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> int:
    """Generate text for each prompt. Raises: ConfigError for an option, a prompt or a model that cannot be used."""
    options = _parser().read(arguments)
    if len(options.model) != 1:
        raise ConfigError(
            f"lightrail generate takes one run or folder, found {len(options.model)}: lightrail generate RUN_ID "
            f"--prompt TEXT."
        )
    from lightrail.project.basics.hardware import set_threads
    from lightrail.project.configuration.classes import AllowedClasses
    from lightrail.project.models.generating import ResponseModel, load_text_model
    from lightrail.project.tracking.settings import TrackingConfig

    config = _config(options)
    AllowedClasses(options.allow_modules.split(","))
    set_threads()
    model = load_text_model(options.model[0], TrackingConfig(uri=options.uri))
    prompts = list(_prompts(options))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    if isinstance(model, ResponseModel):
        _respond(model, prompts, options)
        return 0
    encode_prompt = model.turn_ids if options.chat else model.prompt_ids
    for number, prompt_ids in enumerate(map(encode_prompt, prompts), 1):
        place = f"prompt {number}" if len(prompts) > 1 else ""
        _show(model, prompt_ids, config, options.num_samples, options.stop, place)
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("generate")
    parser.add_argument("model", nargs="*")
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--prompts")
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--repetition_penalty", type=float, default=1.0)
    parser.add_argument("--stop", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_samples", type=int, default=1)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--allow_modules", default="")
    return parser


def _config(options: argparse.Namespace) -> "GenerationConfig":
    """Build the settings of the sampling. Raises: ConfigError naming the option that is out of range."""
    from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig

    ranges = {field.name: field.type for field in fields(GenerationConfig)}
    for name, annotation in {**ranges, "num_samples": PositiveInt}.items():
        check_range(getattr(options, name), annotation, f"--{name}")
    if "" in options.stop:
        raise ConfigError("--stop is empty, and every text contains the empty text. Give at least one character.")
    return GenerationConfig(**{name: getattr(options, name) for name in ranges})


def _prompts(options: argparse.Namespace) -> Iterator[str]:
    """Yield the prompts of the command line, then those of the file; without any, all of standard input as one."""
    yield from options.prompt
    if options.prompts is not None:
        try:
            yield from user_path(options.prompts).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--prompts {shown(str(options.prompts))}: {first_line(error)}. Give UTF-8 text, one prompt per line."
            ) from error
    elif not options.prompt:
        yield _standard_input()


def _standard_input() -> str:
    """Read standard input, without the final line break that a shell adds."""
    if sys.stdin is None:
        raise ConfigError("there is no prompt, and standard input is closed. Give --prompt TEXT.")
    if sys.stdin.isatty():
        log.info("reading the prompt from the terminal; Ctrl-D on an empty line ends it")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 text: {error}. Give --prompt TEXT.") from error
    return text.removesuffix("\n").removesuffix("\r")


def written(model: "TextModel | ResponseModel", prompt: str, options: argparse.Namespace) -> list[str]:
    """Return the texts that the command writes for a prompt.

    Args:
        options: all that `usual_options` has.

    Raises: ConfigError for an option that is out of range, or that this model does not have.
    """
    from lightrail.project.models.generating import ResponseModel

    config = _config(options)
    if isinstance(model, ResponseModel):
        return _responses(model, prompt, options)
    prompt_ids = model.turn_ids(prompt) if options.chat else model.prompt_ids(prompt)
    steps = model.samples(prompt_ids, config, num_samples=options.num_samples, stops=options.stop)
    return ["".join(parts) for parts in zip(*steps, strict=True)]


def usual_options() -> argparse.Namespace:
    """Return the options of a command that gives none."""
    return _parser().parse_args([])


_OF_SAMPLES = ("temperature", "top_k", "top_p", "repetition_penalty", "stop", "seed", "chat")
"""Options of text that is drawn at random, token by token."""


def _responses(model: "ResponseModel", prompt: str, options: argparse.Namespace) -> list[str]:
    """Return the best texts for a prompt. Raises: ConfigError for an option of sampled text."""
    usual = usual_options()
    for name in _OF_SAMPLES:
        if getattr(options, name) != getattr(usual, name):
            raise ConfigError(
                f"--{name} is for models that continue a text. This one writes the most probable text for another: "
                f"leave --{name} out; --num_samples gives the best ones."
            )
    max_tokens = None if options.max_tokens == usual.max_tokens else options.max_tokens
    return model.texts(prompt, num_best=options.num_samples, max_tokens=max_tokens)


def _respond(model: "ResponseModel", prompts: Sequence[str], options: argparse.Namespace) -> None:
    """Write the best texts for each prompt. Raises: ConfigError for an option of sampled text."""
    for number, prompt in enumerate(prompts, 1):
        place = f"prompt {number}" if len(prompts) > 1 and options.num_samples > 1 else ""
        for rank, text in enumerate(_responses(model, prompt, options), 1):
            _head(place, rank, options.num_samples)
            sys.stdout.write(f"{text}\n")


def _show(
    model: "TextModel",
    prompt_ids: Sequence[int],
    config: "GenerationConfig",
    num_samples: int,
    stops: Sequence[str],
    place: str,
) -> None:
    """Stream the first sample, and write the others when it is done; with a heading where there are several.

    Raises: BrokenPipeError when the reader has closed the pipe.
    """
    texts = [""] * num_samples
    _head(place, 1, num_samples)
    for parts in model.samples(prompt_ids, config, num_samples=num_samples, stops=stops):
        texts = [text + part for text, part in zip(texts, parts, strict=True)]
        sys.stdout.write(parts[0])
        sys.stdout.flush()
    sys.stdout.write("\n")
    for number, text in enumerate(texts[1:], 2):
        _head(place, number, num_samples)
        sys.stdout.write(f"{text}\n")


def _head(place: str, number: int, num_samples: int) -> None:
    parts = [part for part in (place, f"sample {number}" if num_samples > 1 else "") if part]
    if parts:
        sys.stdout.write(f"=== {', '.join(parts)} ===\n")
