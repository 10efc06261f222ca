"""The errors a user can cause.

Each message says what was given, what was expected and what to do.  The command line prints the
message alone and exits with status 2; a program catches `CknError`.
"""

import importlib
import re

# Characters that a terminal obeys rather than shows, those that turn the direction of writing included.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class CknError(Exception):
    """Base class of every error that this library raises on purpose."""


class InvalidSpec(CknError, ValueError):
    """A network, layer, kernel or option that cannot be, or cannot be with these images."""


class InvalidData(CknError, ValueError):
    """Images, labels or features that are missing, malformed or do not fit together."""


class InvalidModelFile(CknError, ValueError):
    """A file that is not a model of ours, is damaged, or is of a newer version."""


class BackendUnavailable(CknError, RuntimeError):
    """A backend that was asked for and cannot run here."""


class NotInstalled(CknError, ImportError):
    """A package of an extra of ours that is not installed; see `require`."""


class OutOfMemory(CknError, MemoryError):
    """Memory that does not hold one image on its way through a network, or two that are compared."""


def require(*modules: str, purpose: str, extra: str) -> None:
    """Import modules that only some installations have, so that what lacks is said before the work.

    ``purpose`` says who needs which packages, ``extra`` which extra of ckncuda brings them.

    Examples
    --------
    >>> require("zebra", purpose="the zoo needs zebra", extra="zoo")
    Traceback (most recent call last):
    ckncuda.errors.NotInstalled: the zoo needs zebra; install it with: pip install 'ckncuda[zoo]'
    """
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        packages = "them" if " and " in purpose else "it"
        raise NotInstalled(f"{purpose}; install {packages} with: pip install 'ckncuda[{extra}]'") from error


def printable(text: object) -> str:
    r"""Return a text of others, such as the name of a file, so that a terminal shows it and obeys none of it.

    Examples
    --------
    >>> print(printable("cat\x1b[31m, naïve"))
    cat\x1b[31m, naïve
    """
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], str(text))
