"""`ckn backends`: where this machine can compute."""

import click

from ckncuda.backend import backend_statuses

from .options import json_option, print_result


@click.command()
@json_option
def backends(as_json: bool) -> None:
    """Say which backends work on this machine and, where one does not, why and what to do.

    \b
    Example:
        ckn backends
    """
    statuses = backend_statuses()
    result = {s.name: {"works": s.works, "detail": s.detail} for s in statuses}
    lines = [f"{s.name:<10} {'works' if s.works else 'does not work'}: {s.detail}" for s in statuses]
    print_result(result, as_json, lines)
