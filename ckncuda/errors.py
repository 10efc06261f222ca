"""The errors a user can cause.

Each message says what was given, what was expected and what to do.  The command line prints the
message alone and exits with status 2; a program catches `CknError`.
"""


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


class OutOfMemory(CknError, MemoryError):
    """A GPU whose memory does not hold one image on its way through the network."""
