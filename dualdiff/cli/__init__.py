"""The commands: thin shells around the core, and the only place that knows Typer and Rich.

`run` is the border: below it errors are exceptions, above it they are one line and an exit code.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

import dualdiff
from dualdiff.cli import console, dataset, doctor, encode, generate, init, inspect, unet, vae
from dualdiff.cli import format as format_
from dualdiff.cli.streams import open_streams
from dualdiff.core.errors import DualdiffError, Interrupted, did_you_mean
from dualdiff.core.process import STOP_SIGNALS, heeded, settle

app = typer.Typer(
    help="Turn a folder of game music into a model that writes new music for a weighted mix of those games.",
    rich_markup_mode=None,  # Rich's help would triple the time to an answer
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init", short_help="Write dualdiff.toml here, from a preset.")(init.init)
app.command("doctor", short_help="Say what this machine has and lacks.")(doctor.doctor)
app.add_typer(dataset.app, name="dataset")
app.add_typer(format_.app, name="format")
app.add_typer(vae.app, name="vae")
app.command("encode", short_help="Turn the tracks into latents.")(encode.encode)
app.add_typer(unet.app, name="unet")
app.command("generate")(generate.generate)
app.command("inspect")(inspect.inspect)

IN_ORDER = ("init", "doctor", "dataset", "format", "vae", "encode", "unet", "generate", "inspect")
"""The commands as help lists them: in the order of use."""

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

ANYWHERE = ("--debug", "-q", "--quiet", "-v", "--verbose")
"""Flags that may stand anywhere on the line: one adds them to the end of the command that just failed."""

# Typer's own usage errors: Click's in older versions, a copy of Click's inside Typer in newer ones. The public names of
# both hold only this child of the class.
TyperUsageError: Any = typer.BadParameter.__base__


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is going on.")] = False,
) -> None:
    """What holds for every command."""
    console.set_verbosity(quiet, verbose)
    if version:
        console.say(f"dualdiff {dualdiff.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.say(context.get_help())


def main() -> None:
    """Run the command of this process's arguments and exit with its code; every stop signal acts as a Ctrl-C does."""
    settle()
    open_streams()
    for kind in filter(heeded, STOP_SIGNALS):
        if kind != signal.SIGINT:  # Python's own handler raises the same
            signal.signal(kind, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what went wrong is told on stderr, in one line and a hint."""
    started_s, debug = time.monotonic(), False
    try:
        front, debug = _global_flags_first(arguments)
        code = _command().main(args=front, prog_name="dualdiff", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `dualdiff inspect | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the border: everything becomes a line and a code
        if debug:
            traceback.print_exc()
        return _explain(error)
    if code == INTERRUPTED:  # Typer has caught the interruption
        _show_interruption()
    console.detail(f"took {console.duration(time.monotonic() - started_s)}")
    return code if isinstance(code, int) else 0


def _command() -> Any:
    group: Any = typer.main.get_command(app)
    group.commands = {name: group.commands[name] for name in IN_ORDER}
    return group


def _global_flags_first(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments with the flags that may stand anywhere moved to the front, and whether `--debug` is among them.

    What follows an option that takes a value is that value: `--name -v` names a clip "-v".
    """
    flags: list[str] = []
    rest: list[str] = []
    command, takes_value = _command(), False
    for index, word in enumerate(arguments):
        if word == "--" and not takes_value:
            rest += arguments[index:]
            break
        is_flag = word in ANYWHERE and not takes_value
        (flags if is_flag else rest).append(word)
        takes_value = not takes_value and word in _with_values(command)
        command = getattr(command, "commands", {}).get(word, command)
    return flags + rest, "--debug" in flags


def _with_values(command: Any) -> set[str]:
    """The options of a command that take a value."""
    options = (own for own in command.params if own.param_type_name == "option")
    return {name for own in options if not own.is_flag and not own.count for name in own.opts}


def _explain(error: BaseException) -> int:
    """Tell the user of an error and return the exit code that goes with it."""
    if isinstance(error, DualdiffError):
        if error.is_everyones and console.verbosity.errors_only:
            return error.exit_code
        console.show_error(error.message, error.hint, "interrupted" if isinstance(error, Interrupted) else "error")
        return error.exit_code
    if isinstance(error, TyperUsageError):
        wrong_option = hasattr(error, "option_name")  # its longer message lists options; the hint has the closest
        console.show_error(error.message if wrong_option else error.format_message(), _usage_hint(error))
        return 2
    if isinstance(error, KeyboardInterrupt):
        _show_interruption()
        return INTERRUPTED
    if isinstance(error, OSError) and error.strerror:  # a full disk, a file out of reach: the machine's, not a bug
        where = f"{error.filename}: " if error.filename else ""
        console.show_error(f"{where}{error.strerror}", "check space and permissions; --debug shows what was going on")
        return 1
    console.show_error(
        f"this is a bug in dualdiff {dualdiff.__version__}: {type(error).__name__}: {error}",
        "run the same command again with --debug added, and report what it shows",
    )
    return 1


def _show_interruption() -> None:
    console.show_error(
        "before the work was done", "what is on disk is whole: run the same command again", word="interrupted"
    )


def _usage_hint(error: Any) -> str:
    """What to do about a usage error: the closest option, else the help that says what there is."""
    command = getattr(error, "ctx", None) and error.ctx.command
    known = [option for parameter in getattr(command, "params", []) for option in parameter.opts]
    near = did_you_mean(getattr(error, "option_name", None) or "", known)
    return near or f"{error.ctx.command_path if command else 'dualdiff'} --help lists what there is"
