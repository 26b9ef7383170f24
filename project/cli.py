"""The command line. A command is imported when it is called, so that `--help` and `list` answer at once."""

import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, Refusal, Shown
from lightrail.project.basics.logs import set_up_logging

SETTINGS_HELP = """
settings:
  --config C                what to run: a YAML file, or the name of a shipped experiment (lightrail list);
                            may be repeated, later files are merged over earlier ones
  --model.NAME V            a setting of the task, --model.encoder.NAME V of its network
  --data.NAME V             a setting of the data
  --trainer.NAME V          an argument of Lightning's Trainer, such as --trainer.max_epochs 3
  --tracking.NAME V         where and how the run is recorded: uri, experiment, run_name, tags, checkpoint
  --seed_everything N       seed of the run; the data split has its own
  --allow_modules M,...     also allow classes of these modules (LIGHTRAIL_ALLOW_MODULES)
  --print_config            print the complete configuration as YAML, and stop
  --help_all                print every setting with its type, value and meaning, and stop

`lightrail COMMAND --config NAME --help_all` shows the settings of that experiment's task and data;
`lightrail COMMAND --config NAME --print_config > my.yaml` makes a file of your own to change.
"""
CHECKPOINT_HELP = """
options:
  --ckpt_path P             a checkpoint file, or runs:/RUN_ID for the best one of a run; then --config may be left out
"""
SEEDS_HELP = """
options:
  --seeds N                 train and test with N seeds, the configuration's and those that follow it, under one run
                            that tells mean and standard deviation
"""
RESUME_HELP = """
RUN_ID is the run's id, the beginning of it, or a checkpoint of the run. Settings that are given are changed from there
on, and recorded as tags of the run.

options:
  --force                   go on although another machine may still be at it
"""
REPRODUCE_HELP = """
Says first what differs from the time of the run: code, packages, data, configuration, hardware. Then makes the run
again, as a run of its own, and compares every metric and every prediction. Exit status: 0 equal, 1 not equal.

options:
  --if_different V          refuse (the default) or continue, when something differs
  --check_only              only say what differs: exit status 0 when nothing does, else 1
"""
COMPARE_HELP = """
RUN is an id, the beginning of one, or the name of a run; the others are compared with the first. The runs of
`fit --seeds` count as one, named by their parent.

options:
  --output FILE             .md, .html (one file with a figure) or .json; left out: to standard output
  --format F                markdown (default), html or json, where the name of the file does not tell
  --metric NAME ...         only these metrics; left out: all that the runs share
  --resamples N             bootstrap resamples (default 2000); random swaps are at least 10,000
  --num_examples N          examples on which the runs differ most (default 10)
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
GENERATE_HELP = """
MODEL is a run's id or the beginning of it, runs:/RUN_ID, a checkpoint file, or a folder that `lightrail export` or
transformers wrote. The text that goes on from the prompt is written to standard output as it comes into being.

options:
  --prompt TEXT             may be repeated; left out: all of standard input is one prompt
  --prompts FILE            a prompt a line
  --chat                    put the prompt as in training: by the run's data.template, else by the chat template
  --max_tokens N            most tokens of a sample (default 200)
  --temperature T           0.8 by default; below 1 likely tokens become likelier, 0 always takes the likeliest
  --top_k N                 choose among the N likeliest tokens; left out: among all
  --top_p P                 choose among the likeliest tokens that together have this probability (default 1)
  --repetition_penalty R    above 1 (default) makes what the text has already less likely
  --stop TEXT               end a sample before this text; may be repeated
  --num_samples N           texts for each prompt (default 1)
  --seed N                  of the random choices (default 0)
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
EXPORT_HELP = """
RUN is a run's id or the beginning of it, of which the best weights are taken, or a checkpoint file.

options:
  --output DIR              folder to write; it must be new or empty
  --format F                safetensors (default): any task, for `load_exported("DIR")` in Python;
                            hf: a causal language model, for plain transformers
  --overwrite               replace an earlier export
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
SWEEP_HELP = """
FILE says what is varied, or names a shipped sweep (lightrail list). Trials run side by side, each in a process of its
own, and all are runs of MLflow under one parent. The same command goes on with a sweep that was ended, at any moment
and in any way, and on another machine joins it.

options:
  --n_trials N              the sweep ends with so many finished trials, those of earlier starts included
  --resources.workers N     trials at a time; left out: as many as there are GPUs, one on a CPU
  --resources.devices N     GPUs (on a CPU processes) of each trial
  --storage URI             database of the study: sqlite:///FILE (default sweeps.db) or postgresql://...
  --study NAME              name of the study; left out: that of the file
  --overrides.NAME V        a setting of every trial, such as --overrides.tracking.uri URI
  --launcher L              local (default), ray or slurm: what runs `resources.workers` trials at a time
  --timeout_minutes M       begin no trial later than this
  --status                  show the study as a table, and train nothing
  --allow_modules M,...     also allow classes of these modules
"""
OUTPUT_HELP = """\
  --data.path FILE          what to answer, read as its name says; - for standard input, one text a line
  --output FILE             .jsonl, .csv or .parquet; left out: JSON lines to standard output
"""


@dataclass(frozen=True)
class Command:
    """A command of ours, a function in `project/commands/`."""

    summary: str
    usage: str
    details: str = ""
    place: str | None = None
    """Module and function among `commands`; left out: `NAME.run`."""


COMMANDS = {
    "list": Command(
        "what there is: experiments, tasks, networks, data; or the last runs",
        "lightrail list [runs [--tracking.uri URI]]",
    ),
    "check": Command(
        "look at data and configuration, train nothing",
        "lightrail check --config C [settings]",
        SETTINGS_HELP,
        place="fit.check",
    ),
    "fit": Command(
        "train, test the best, close the run",
        "lightrail fit --config C [--seeds N] [settings]",
        SEEDS_HELP + SETTINGS_HELP,
    ),
    "resume": Command(
        "go on with a run that ended early", "lightrail resume RUN_ID [settings]", RESUME_HELP + SETTINGS_HELP
    ),
    "reproduce": Command(
        "make a finished run again and compare",
        "lightrail reproduce RUN_ID [--if_different refuse|continue] [--check_only] [settings]",
        REPRODUCE_HELP + SETTINGS_HELP,
    ),
    "compare": Command(
        "runs side by side, and which differences are more than chance",
        "lightrail compare RUN RUN [RUN ...] [--output FILE] [options]",
        COMPARE_HELP,
    ),
    "validate": Command(
        "score a checkpoint on the validation data",
        "lightrail validate --ckpt_path P [--config C] [settings]",
        CHECKPOINT_HELP + SETTINGS_HELP,
        place="predict.validate",
    ),
    "test": Command(
        "score a checkpoint on the test data",
        "lightrail test --ckpt_path P [--config C] [settings]",
        CHECKPOINT_HELP + SETTINGS_HELP,
        place="predict.test_checkpoint",
    ),
    "predict": Command(
        "write a checkpoint's predictions",
        "lightrail predict --ckpt_path P [--config C] [--data.path FILE|-] [--output FILE] [settings]",
        CHECKPOINT_HELP + OUTPUT_HELP + SETTINGS_HELP,
    ),
    "generate": Command(
        "text that a language model writes",
        "lightrail generate MODEL [--prompt TEXT] [options]",
        GENERATE_HELP,
    ),
    "export": Command(
        "take a model out of its run: safetensors, or a folder for transformers",
        "lightrail export RUN --output DIR [--format safetensors|hf] [options]",
        EXPORT_HELP,
    ),
    "sweep": Command(
        "train configurations out of a space, and find the best",
        "lightrail sweep --config FILE [--n_trials N] [settings of the sweep]",
        SWEEP_HELP,
    ),
    "sync": Command("send what waits here for a store that was away", "lightrail sync [--tracking.uri URI]"),
    "demo": Command("the main job on real text, in about five minutes", "lightrail demo [settings]"),
    "ui": Command("open MLflow's pages on the recorded runs", "lightrail ui [--port N] [--tracking.uri URI]"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: 0 done, 2 refused, 130 interrupted; what else goes wrong is raised, and Python ends with 1.
    """
    try:
        status = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except Refusal as refusal:
        sys.stderr.write(f"lightrail: error: {refusal}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("lightrail: interrupted\n")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _dispatch(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except Shown as shown:
        sys.stdout.write(f"{shown}\n")
        return 0


def _run(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError(f"which command? {', '.join(COMMANDS)}. `lightrail --help` says what they do.")
    name, *rest = arguments
    if name in ("--help", "-h"):
        raise Shown(_help())
    if name == "--version":
        raise Shown(f"lightrail {importlib.metadata.version('lightrail')}")
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}.{did_you_mean(name, COMMANDS)}")
    if "--help" in rest or "-h" in rest:
        raise Shown(_command_help(COMMANDS[name]))
    set_up_logging()
    module, _, function = (COMMANDS[name].place or f"{name}.run").rpartition(".")
    status: int = getattr(_imported(f"lightrail.project.commands.{module}"), function)(rest)
    return status


def _imported(name: str) -> ModuleType:
    """Import a module, and keep it out of garbage collections: in what is imported they find nothing, and take a sixth
    of the time until training begins in looking.
    """
    if name not in sys.modules:
        gc.disable()
        try:
            importlib.import_module(name)
            gc.freeze()
        finally:
            gc.enable()
    return sys.modules[name]


def _help() -> str:
    lines = [f"  {name:11}{command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: lightrail COMMAND [--config C] [--SECTION.SETTING VALUE ...]"
    more = "`lightrail COMMAND --help` says more. `lightrail --version` prints the version."
    return "\n".join([usage, "", "commands:", *lines, "", more])


def _command_help(command: Command) -> str:
    return f"usage: {command.usage}\n\n{command.summary}\n{command.details.rstrip()}".rstrip()
