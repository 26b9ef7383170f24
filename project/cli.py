"""The command line. A command is imported when it is called, so that `--help` and `list` respond at once."""

import gc
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

from lightrail.project import last_resort
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, Shown, foreseen
from lightrail.project.basics.logs import set_up_logging

TRACEBACK = "--traceback"
SETTINGS_HELP = """
settings:
  --config C                a YAML file, or the name of a shipped experiment (lightrail list);
                            may be repeated, later files are merged over earlier ones;
                            fit and check take C without --config too: lightrail fit digits
  --model CLASS             another task, or any LightningModule of yours; --data CLASS any LightningDataModule
  --model.NAME V            a setting of the task, --model.encoder.NAME V of its network
  --data.NAME V             a setting of the data
  --trainer.NAME V          an argument of Lightning's Trainer, such as --trainer.max_epochs 3
  --tracking.NAME V         where and how the run is recorded: uri, experiment, run_name, tags, checkpoint
  --seed_everything N       seed of the run; the data split has its own
  --epochs N, --steps N     short for --trainer.max_epochs, --trainer.max_steps; so are --lr (--model.optim.lr),
                            --batch_size (--data.batch.size), --seed, --device cpu|gpu (--trainer.accelerator),
                            --devices, --precision, --name (--tracking.run_name), --experiment
  --allow_modules M,...     also allow classes of these modules (LIGHTRAIL_ALLOW_MODULES)
  --print_config            print the complete configuration as YAML, and stop
  --help_all                print every setting with its type, value and meaning, and stop

`lightrail COMMAND --config NAME --help_all` shows the settings of that experiment's task and data;
`lightrail COMMAND --config NAME --print_config > my.yaml` makes a file of your own to change.
"""
RUN_HELP = """
A run is named by its id, the beginning of it (4 characters or more), its name, runs:/RUN_ID, a registered model
(models:/NAME/VERSION, models:/NAME@ALIAS), its folder, a checkpoint of it, or a folder of `lightrail export`.
"""
CHECKPOINT_HELP = f"""{RUN_HELP}
options:
  MODEL, --ckpt_path MODEL  a run, whose best checkpoint is used, or a checkpoint; then --config may be left out
"""
SEEDS_HELP = """
options:
  --seeds N                 train and test with N consecutive seeds from the configuration's on, under one parent run
                            that records mean and standard deviation
"""
CHECK_HELP = """
options:
  --find lr                 also train at growing learning rates until the loss diverges, and suggest one
  --find batch_size         also look for the largest useful batch, with the accumulation that keeps the step;
                            both: --find lr,batch_size
"""
RESUME_HELP = f"""{RUN_HELP}
Settings given here apply from the resumed step on, and are recorded as tags of the run.

options:
  --force                   resume although another machine may still be running it
"""
REPRODUCE_HELP = f"""{RUN_HELP}
Reports first what has changed since the run: code, packages, data, configuration, hardware. Then repeats the run as a
new run, and compares every metric and every prediction. Exit status: 0 equal, 1 not equal.

options:
  --if_different V          refuse (the default) or continue, when something has changed
  --check_only              only report the changes: exit status 0 when there are none, else 1
"""
COMPARE_HELP = f"""{RUN_HELP}
The first run is the baseline of the others. The runs of
`fit --seeds` count as one, named by their parent.

options:
  --output FILE             .md, .html (one file with a figure) or .json; left out: to standard output
  --format F                markdown (default), html or json (--json), where the file name has none of these endings
  --require R               exit with status 1 unless each run is shown to be `better` than the baseline, or
                            `not_worse:MARGIN`, by the metrics that are tested
  --metric NAME ...         only these metrics, all of them tested; left out: all that the runs share, of which
                            the one that they were selected by is tested
  --resamples N             bootstrap resamples (default 2000); random swaps are at least 10,000
  --num_examples N          examples on which the runs differ most (default 10)
  --allow_modules M,...     import these modules first, for a metric of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
GENERATE_HELP = f"""{RUN_HELP}
MODEL is a run, a checkpoint, or a folder that `lightrail export` or transformers wrote. The continuation of the
prompt is written to standard output while it is generated.

options:
  --prompt TEXT             may be repeated; left out: all of standard input is one prompt
  --prompts FILE            a text file with one prompt per line
  --chat                    format the prompt as in training: with the run's data.template, else the chat template
  --max_tokens N            maximum number of tokens per sample (default 200)
  --temperature T           below 1 favours likely tokens, 0 always takes the most likely one (default 0.8)
  --top_k N                 sample from the N most likely tokens; left out: from all
  --top_p P                 sample from the most likely tokens that together have this probability (default 1)
  --repetition_penalty R    above 1 makes tokens that are already in the text less likely (default 1)
  --stop TEXT               end a sample before this text; may be repeated
  --num_samples N           samples per prompt (default 1)
  --seed N                  seed of the sampling (default 0)
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
EXPORT_HELP = f"""{RUN_HELP}
The best weights of the run are exported, or those of the checkpoint that is named.

options:
  --output DIR              folder to write; it must be new or empty
  --format F                safetensors (default): any task; every command takes the folder as a run;
                            hf: for plain transformers and sentence-transformers; onnx: for onnxruntime
  --quantize int8           8-bit weights, with --format onnx
  --overwrite               replace an earlier export
  --push OWNER/NAME         also upload the folder to the Hugging Face hub, into a private repository (--public: not),
                            with the token of HF_TOKEN or `hf auth login`
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
EXPLAIN_HELP = f"""{RUN_HELP}
Shows what a model made its prediction of, as one HTML page that needs no other file, and the same numbers as JSON
beside it (FILE.json): the alignment of a translation, integrated gradients of labels, entities and next tokens, and
the attention of all heads.

options:
  --text TEXT               may be repeated
  --text_pair TEXT          the second text of a pair, one for each --text, for a model that reads pairs
  --output FILE             page to write, replaced if it exists (default explain.html)
  --label NAME              explain this label, or entities of this type; left out: what is predicted
  --target TEXT             explain this translation, or this continuation; left out: the model's own
  --device cpu|gpu          left out: a GPU if there is one
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
SERVE_HELP = f"""{RUN_HELP}
MODEL is served over HTTP until Ctrl-C, and what was taken is answered first. GET / is a page for people, POST /predict
takes {{"texts": [...]}}; /invocations is MLflow's protocol, /v1/completions OpenAI's. The first line is the address.

options:
  --host H, --port N        address (default 127.0.0.1, 8000; port 0: any free one)
  --token T                 what requests must carry, `Authorization: Bearer T` (better: LIGHTRAIL_TOKEN)
  --insecure                answer other machines without a token
  --max_batch N             examples answered together (default 32); --max_positions N their positions (16384)
  --max_wait_ms T           wait for further requests while there are several clients (default 2)
  --max_queue N             waiting requests, after which others are refused with status 503 (default 256)
  --max_texts N, --max_characters N, --max_tokens N, --max_samples N, --max_body_mb N, --timeout_seconds N
                            most of a request: texts (256), characters of each (20000), tokens to generate (1024),
                            samples (8), size (8), time (60)
  --device cpu|gpu          left out: a GPU if there is one
  --precision P             32-true (default); in bf16-mixed or 16-mixed scores depend on what is answered together
  --allow_modules M,...     import these modules first, for a task or network of your own
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
SWEEP_HELP = """
FILE defines the search space, or names a shipped sweep (lightrail list). Trials run in parallel, each in its own
process, and all are MLflow runs under one parent. The same command resumes a sweep that was stopped, at any moment
and in any way, and joins it when given on another machine.

options:
  --epochs, --steps, --lr, --batch_size    of every trial; short for --overrides.trainer.max_epochs, ...
  --n_trials N              the sweep ends with N finished trials, those of earlier starts included
  --resources.workers N     trials at a time; left out: one per GPU, or one on a CPU
  --resources.devices N     GPUs (on a CPU: processes) per trial
  --storage URI             database of the study: sqlite:///FILE (default sweeps.db) or postgresql://...
  --study NAME              name of the study; left out: that of the file
  --overrides.NAME V        a setting of every trial, such as --overrides.tracking.uri URI
  --launcher L              local (default), ray or slurm: what runs `resources.workers` trials at a time
  --timeout_minutes M       start no trial later than this
  --status                  show the study as a table, without training; with --json for programs
  --allow_modules M,...     also allow classes of these modules
"""
CLEAN_HELP = """
Prints what each kept byte of the store, its runs and the caches is for, and marks what no command could need: what
only resuming a finished run needed, files of runs deleted in MLflow, half-written files of dead processes, damaged
caches, and caches of data that no run in the store has and that nothing has used for 30 days. Without options it
removes nothing, or asks on a terminal.

options:
  --yes                     remove what is marked, without asking
  --dry_run                 only print
  --tracking.uri URI        MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)
"""
OUTPUT_HELP = """\
  --data.path FILE          examples to predict, in the format of the file name; - for standard input, a text per line
  --output FILE             .jsonl, .csv, .parquet or .npy (vectors); left out: JSON lines to standard output
"""


@dataclass(frozen=True)
class Command:
    """A command of lightrail, implemented by a function in `project/`, most of them in `project/commands/`."""

    summary: str
    usage: str
    details: str = ""
    place: str | None = None
    """Module and function in `project`; left out: `commands.NAME.run`."""


COMMANDS = {
    "list": Command(
        "list experiments, tasks, networks and data; or the last runs",
        "lightrail list [runs [--number N] [--json] [--tracking.uri URI]]",
    ),
    "check": Command(
        "check data and configuration, without training",
        "lightrail check C [--find lr,batch_size] [--json] [settings]",
        CHECK_HELP + SETTINGS_HELP,
        place="commands.fit.check",
    ),
    "fit": Command(
        "train, test the best checkpoint, close the run",
        "lightrail fit C [--seeds N] [--json] [settings]",
        SEEDS_HELP + SETTINGS_HELP,
    ),
    "resume": Command("resume an interrupted run", "lightrail resume RUN [settings]", RESUME_HELP + SETTINGS_HELP),
    "reproduce": Command(
        "repeat a finished run and compare the two",
        "lightrail reproduce RUN [--if_different refuse|continue] [--check_only] [settings]",
        REPRODUCE_HELP + SETTINGS_HELP,
    ),
    "compare": Command(
        "compare runs, with significance tests of their differences",
        "lightrail compare RUN RUN [RUN ...] [--output FILE] [options]",
        COMPARE_HELP,
    ),
    "validate": Command(
        "score a checkpoint on the validation data",
        "lightrail validate MODEL [--config C] [settings]",
        CHECKPOINT_HELP + SETTINGS_HELP,
        place="commands.predict.validate",
    ),
    "test": Command(
        "score a checkpoint on the test data",
        "lightrail test MODEL [--config C] [settings]",
        CHECKPOINT_HELP + SETTINGS_HELP,
        place="commands.predict.test_checkpoint",
    ),
    "predict": Command(
        "write a checkpoint's predictions",
        "lightrail predict MODEL [--config C] [--data.path FILE|-] [--output FILE] [settings]",
        CHECKPOINT_HELP + OUTPUT_HELP + SETTINGS_HELP,
    ),
    "generate": Command(
        "generate text with a language model",
        "lightrail generate MODEL [--prompt TEXT] [options]",
        GENERATE_HELP,
    ),
    "explain": Command(
        "show what a prediction was made of: attention and attributions",
        "lightrail explain MODEL --text TEXT [--output FILE] [options]",
        EXPLAIN_HELP,
        place="explaining.command.run",
    ),
    "export": Command(
        "export the model of a run: as safetensors, for transformers, or as ONNX",
        "lightrail export RUN --output DIR [--format safetensors|hf|onnx] [options]",
        EXPORT_HELP,
    ),
    "serve": Command(
        "serve a model over HTTP, for programs and for people",
        "lightrail serve MODEL [--port N] [options]",
        SERVE_HELP,
        place="serving.command.run",
    ),
    "sweep": Command(
        "train configurations from a search space, and find the best",
        "lightrail sweep FILE [--n_trials N] [settings of the sweep]",
        SWEEP_HELP,
    ),
    "sync": Command("send pending data to a store that was unreachable", "lightrail sync [--tracking.uri URI]"),
    "clean": Command(
        "show what kept files are for, and remove those that no command needs",
        "lightrail clean [--yes|--dry_run] [--tracking.uri URI]",
        CLEAN_HELP,
        place="commands.sync.clean",
    ),
    "demo": Command("train a model and its baseline on real text, in five minutes", "lightrail demo [settings]"),
    "schema": Command(
        "print a JSON schema of configurations, with which editors complete and check them",
        "lightrail schema > lightrail.schema.json",
        place="editors.schema.run",
    ),
    "completion": Command(
        "print a script with which a shell completes commands, options and names",
        'eval "$(lightrail completion bash)", or zsh; lightrail completion fish | source',
        place="editors.completion.run",
    ),
    "ui": Command("serve the MLflow UI for the recorded runs", "lightrail ui [--port N] [--tracking.uri URI]"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an exception that nobody foresaw becomes one line, with its traceback in a file.

    Returns: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        last_resort.report(error, words, shows_traceback=TRACEBACK in words)
        return 1


def run(arguments: Sequence[str]) -> int:
    """Run one command, for programs: an exception that nobody foresaw is raised.

    Returns: 0 done, 1 diverged or on a full disk, 2 refused, 130 interrupted, or what the command returns.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a surrogate, or a character that the terminal lacks
        with suppress(OSError):  # of a stream that cannot be flushed here
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch([word for word in arguments if word != TRACEBACK])
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("lightrail: interrupted\n")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        found = foreseen(error)
        if found is None:
            raise
        sys.stderr.write(f"lightrail: error: {found.message}\n")
        return found.status
    return status


def _dispatch(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except Shown as shown:
        sys.stdout.write(f"{shown}\n")
        return 0


def _run(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError(f"which command? {', '.join(COMMANDS)}. `lightrail --help` explains them.")
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
    module, _, function = (COMMANDS[name].place or f"commands.{name}.run").rpartition(".")
    status: int = getattr(_imported(f"lightrail.project.{module}"), function)(rest)
    return status


def _imported(name: str) -> ModuleType:
    """Import a module without garbage collection, and exclude its objects from later collections."""
    if name not in sys.modules:
        gc.disable()  # collections find nothing in imported modules, and take a sixth of the time until training starts
        try:
            importlib.import_module(name)
            gc.freeze()
        finally:
            gc.enable()
    return sys.modules[name]


def _help() -> str:
    lines = [f"  {name:11}{command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: lightrail COMMAND [--config C] [--SECTION.SETTING VALUE ...]"
    more = [
        "`lightrail COMMAND --help` shows its options. `lightrail --version` prints the version.",
        "`--traceback`, with any command, shows the traceback of a failure, which is else written to a file.",
    ]
    return "\n".join([usage, "", "commands:", *lines, "", *more])


def _command_help(command: Command) -> str:
    return f"usage: {command.usage}\n\n{command.summary}\n{command.details.rstrip()}".rstrip()
