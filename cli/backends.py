"""`ckn backends`: where this machine can compute."""

import click

from ckncuda.backend import backend_statuses

from . import options


@click.command()
@options.printed
def backends() -> options.Printed:
    """Say which backends work on this machine and, where one does not, why and what to do.

    \b
    Example:
        ckn backends
    """
    statuses = backend_statuses()
    result = {s.name: {"works": s.works, "detail": s.detail} for s in statuses}
    lines = [f"{s.name:<10} {'works' if s.works else 'does not work'}: {s.detail}" for s in statuses]
    return result, lines
