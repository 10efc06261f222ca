"""Entry point of the `ckn` command, and what all commands share: errors, Ctrl-C, warnings."""

import io
import logging
import signal
import sys
import warnings
from types import FrameType
from typing import NoReturn

import click

from ckncuda import __version__
from ckncuda.errors import CknError

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
from .predict import predict
from .search import search

BAD_INPUT = 2
INTERRUPTED = 130  # as shells report a process that Ctrl-C ended


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def main() -> NoReturn:
    """Run the command line; print failures that a user can mend as one message, and exit with 2."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP; nohup ignores it, and so do we then
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), _terminate)
    for stream in (sys.stdout, sys.stderr):  # \u03bb rather than a failure where the encoding has no λ
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ckncuda").setLevel(logging.INFO)
    # When one of several reads of Zarr fails, asyncio complains of the others; the failure is reported.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        cli.main(standalone_mode=False, prog_name="ckn")
        status = 0
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        error.show()
        status = BAD_INPUT
    except CknError as error:
        status = _fail(str(error))
    except MemoryError as error:
        words = str(error).rstrip(".")
        status = _fail(f"not enough memory: {words}. Give fewer images or filters, or a smaller --memory")
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: nobody is left to tell
        status = 1
    except OSError as error:
        status = _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, click.Abort) as interrupt:
        left = str(interrupt) or "no partial file was left"
        click.echo(f"\nInterrupted; {left}.", err=True)
        status = INTERRUPTED
    sys.exit(status)


def _fail(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return BAD_INPUT


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, so that temporary files are removed, when asked to end."""
    raise KeyboardInterrupt


def _show_warning(message: Warning | str, *rest: object, **more: object) -> None:
    click.echo(f"Warning: {message}", err=True)
