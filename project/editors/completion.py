"""`lightrail completion SHELL`: a script with which a shell completes commands, options and names."""

import re
import sys
from collections.abc import Iterator, Sequence

from lightrail.project.basics import catalogue
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.cli import COMMANDS

CANDIDATES = "candidates"
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.]*")
_SCRIPTS = {
    "bash": """\
_lightrail() {
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(lightrail completion candidates "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" \\
        -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -o bashdefault -F _lightrail lightrail
""",
    "zsh": """\
#compdef lightrail
_lightrail() {
    local -a found
    found=("${(@f)$(lightrail completion candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -- $found
    _files
}
compdef _lightrail lightrail
""",
    "fish": """\
complete -c lightrail -a '(lightrail completion candidates (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}
"""What a shell reads; words before the cursor are passed on, the unfinished one last."""


def run(arguments: list[str]) -> int:
    """Print the script for a shell, or what could complete the last of the given words. Raises: ConfigError."""
    if arguments[:1] == [CANDIDATES]:
        sys.stdout.writelines(f"{found}\n" for found in candidates(arguments[1:]))
    elif len(arguments) == 1 and arguments[0] in _SCRIPTS:
        sys.stdout.write(_SCRIPTS[arguments[0]])
    else:
        raise ConfigError(f"`lightrail completion {shown(' '.join(arguments))}`: give {', '.join(_SCRIPTS)}.")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what could complete the last of the words after `lightrail`, sorted; files are left to the shell.

    >>> candidates(["comp"]), candidates(["fit", "dig"])
    (['compare', 'completion'], ['digits'])
    """
    *before, last = words or [""]
    found = COMMANDS if not before else _after(before[0], before[-1], last)
    return sorted({one for one in found if one.startswith(last)})


def _after(command: str, word: str, last: str) -> Iterator[str]:
    if command not in COMMANDS:
        return
    if last.startswith("-"):
        named = _OPTION.findall(COMMANDS[command].details + COMMANDS[command].usage)
        yield from (name for name in named if not name.endswith(".NAME"))
        yield "--help"
    elif word == "--config" or (command in ("fit", "check", "sweep") and not word.startswith("-")):
        yield from catalogue.sweep_files() if command == "sweep" else catalogue.experiment_files()
    elif command == "list":
        yield "runs"
    elif command == "completion":
        yield from _SCRIPTS
