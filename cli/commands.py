"""All commands, and what becomes of their failures."""

import os
import sys
from collections.abc import Callable

import click

from ckncuda.errors import CknError
from ckncuda.version import __version__

from .backends import backends
from .baseline import baseline
from .bench import bench
from .demo import demo
from .distance import distance
from .evaluate import evaluate
from .extract import extract
from .fit import fit
from .gram import gram
from .info import info
from .options import Commands
from .output import Gone, say, take_over
from .predict import predict
from .search import search

BAD_INPUT = 2


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ckn")
def cli() -> None:
    """Convolutional kernel networks on images.

    \b
    Fit on the training images, then predict:
        ckn fit Xtr.csv --labels Ytr.csv -o model.ckn
        ckn predict model.ckn Xte.csv -o submission.csv
    """


for each in (fit, search, extract, predict, evaluate, gram, info, distance, bench, backends, demo, baseline):
    cli.add_command(each)


def run(take_signals: Callable[[], None], interrupted: int) -> int:
    """Run the command of the arguments, and return the exit status.

    Parameters
    ----------
    take_signals : callable
        Called when there may be something to tidy up: from then on Ctrl-C raises KeyboardInterrupt.
    interrupted : int
        The status after that.
    """
    take_over()
    try:
        take_signals()
        return _run()
    except click.ClickException as error:
        _say_usage(error)
    except CknError as error:
        say(f"Error: {error}")
    except MemoryError as error:
        words = str(error).rstrip(".")
        say(f"Error: not enough memory: {words}. Give fewer images or filters, or a smaller --memory")
    except Gone:
        return 1  # nobody is left to tell
    except OSError as error:
        if error.filename is None and not _is_somewhere():
            say("Error: the current folder no longer exists: change to one that does")
        else:
            say(f"Error: {error.filename}: {error.strerror}" if error.filename else f"Error: {error}")
    except (KeyboardInterrupt, click.Abort) as interrupt:
        say("")
        say(f"Interrupted; {str(interrupt) or 'no partial file was left'}.")
        return interrupted
    return BAD_INPUT


def _is_somewhere() -> bool:
    """Tell whether the current folder still exists."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _run() -> int:
    """Run the command; click would take an EOFError for Ctrl-C."""
    if "_CKN_COMPLETE" in os.environ:  # asked by a shell
        cli.main(prog_name="ckn")
    try:
        with cli.make_context("ckn", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    return 0


def _say_usage(error: click.ClickException) -> None:
    """Say what is wrong with the arguments, and what they are."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None and error.message == context.get_help():  # `ckn` alone
        for line in error.message.split("\n"):
            say(line)
        return
    if context is not None:
        for line in context.get_usage().split("\n"):
            say(line)
        say(f"Try '{context.command_path} -h' for help.")
        say("")
    say(f"Error: {error.format_message()}")
