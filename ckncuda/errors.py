"""The errors a user can cause.

Each message says what was given, what was expected and what to do.  The command line prints the
message alone and exits with status 2; a program catches `CknError`.
"""

import contextlib
import importlib
import re

# Characters that a terminal obeys rather than shows, those that turn the direction of writing included.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class CknError(Exception):
    r"""Base class of every error that this library raises on purpose.

    Texts of others that stand in its words, such as names of files, are shown, and no terminal obeys them.

    Examples
    --------
    >>> print(CknError("no file cat\x1b[31m"))
    no file cat\x1b[31m
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InvalidSpec(CknError, ValueError):
    """A network, layer, kernel or option that cannot be, or cannot be with these images."""


class InvalidData(CknError, ValueError):
    """Images, labels or features that are missing, malformed or do not fit together."""


class InvalidModelFile(CknError, ValueError):
    """A file that is not a model of ours, is damaged, or is of a newer version."""


class BackendUnavailable(CknError, RuntimeError):
    """A backend that was asked for and cannot run here."""


class NotInstalled(CknError, ImportError):
    """A package of an extra of ours that is not installed, or does not import; see `require`."""


class OutOfMemory(CknError, MemoryError):
    """Memory that does not hold one image on its way through a network, or two that are compared."""


def require(*modules: str, purpose: str, extra: str) -> None:
    """Import modules that only some installations have, so that what lacks is said before the work.

    ``purpose`` says who needs which packages, ``extra`` which extra of ckncuda brings them.

    Examples
    --------
    >>> require("zebra", purpose="the zoo needs zebra", extra="exact")
    Traceback (most recent call last):
    ckncuda.errors.NotInstalled: the zoo needs zebra; install it with: pip install 'zarr<4,>=3.1'
    """
    for module in modules:
        failure = import_failure(module, module.partition(".")[0], extra)
        if failure is None:
            continue
        if "does not import" in failure:
            raise NotInstalled(f"{purpose}; {failure}")
        packages = "them" if " and " in purpose else "it"
        raise NotInstalled(f"{purpose}; install {packages} with: {installing(extra)}")


def import_failure(module: str, name: str, extra: str) -> str | None:
    """Return why a module of an extra cannot be imported, and what to do; None where it is imported now.

    ``name`` is what people call its package.

    Examples
    --------
    >>> import_failure("zebra", "Zebra", "zoo")
    "Zebra is not installed; install it with: pip install '.[zoo]' in ckncuda's folder"
    """
    try:
        importlib.import_module(module)
    except MemoryError:
        raise
    except Exception as error:  # a package that is damaged, or does not suit another, may raise anything
        pass_on_interruption(error)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return f"{name} is not installed; install it with: {installing(extra)}"
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        again = installing(extra, "--force-reinstall ")
        return f"{name} is installed but does not import ({reason}); perhaps this mends it: {again}"
    return None


def pass_on_interruption(error: BaseException) -> None:
    """Raise the `KeyboardInterrupt` that an error of somebody else's code was made of, if it was.

    While a class is defined, as imports do, Python before 3.12 turns whatever is raised into a RuntimeError:
    a guard that takes any error for a refusal would take Ctrl-C for one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        cause = cause.__cause__ or cause.__context__


def installing(extra: str, options: str = "") -> str:
    """Return the command that installs what an extra of ours brings, wherever ckncuda was installed from.

    Examples
    --------
    >>> installing("fast")
    "pip install 'numba<1,>=0.60'"
    """
    import importlib.metadata as installed  # on demand: it takes a good part of the time of `ckn --help`

    with contextlib.suppress(installed.PackageNotFoundError):  # run from its folder alone
        requirements = (text.partition(";") for text in installed.requires("ckncuda") or ())
        marked = re.compile(rf"""extra == ['"]{re.escape(extra)}['"]""")
        packages = [f"'{package.strip()}'" for package, _, when in requirements if marked.search(when)]
        if packages:
            return f"pip install {options}{' '.join(packages)}"
    return f"pip install {options}'.[{extra}]' in ckncuda's folder"


def printable(text: object) -> str:
    r"""Return a text of others, such as the name of a file, so that a terminal shows it and obeys none of it.

    Examples
    --------
    >>> print(printable("cat\x1b[31m, naïve"))
    cat\x1b[31m, naïve
    """
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], str(text))
