"""An option that an unset variable of a shell has left empty is refused at once, by every command."""

import click
import pytest

from ckncuda.cli.commands import cli
from ckncuda.cli.options import TEXT

PARAMETERS = {
    f"{name} {max(parameter.opts, key=len)}": (name, parameter)
    for name, command in cli.commands.items()
    for parameter in command.params
    if isinstance(parameter, click.Argument) or not parameter.is_flag
}


def arguments_of(name, empty, blank=""):
    """Give what the command needs, none of which exists, and the parameter that is empty or blank."""
    given = []
    for parameter in cli.commands[name].params:
        value = blank if parameter is empty else f"nowhere.{parameter.name}"
        if isinstance(parameter, click.Argument) and (parameter.required or parameter is empty):
            given.append(value)
        elif parameter is empty or (parameter.required and isinstance(parameter, click.Option)):
            given += [parameter.opts[-1], value]
    return given


@pytest.mark.parametrize("case", PARAMETERS)
def test_what_is_empty_is_refused(refused, case):
    name, parameter = PARAMETERS[case]
    words = ["Invalid value for"]
    if parameter.type is TEXT:
        words.append("it is empty (an unset shell variable?)")
    refused(name, *arguments_of(name, parameter), words=words)


def test_every_text_is_of_this_type():
    texts = [
        parameter for _, parameter in PARAMETERS.values() if isinstance(parameter.type, type(click.STRING))
    ]
    assert not texts
    assert sum(parameter.type is TEXT for _, parameter in PARAMETERS.values()) > 25


@pytest.mark.parametrize("case", [case for case in PARAMETERS if PARAMETERS[case][1].type is TEXT])
def test_what_is_blank_is_refused(refused, case):
    name, parameter = PARAMETERS[case]
    words = ["Invalid value for", "it is blank (an unset shell variable?)"]
    refused(name, *arguments_of(name, parameter, blank=" \t"), words=words)


@pytest.mark.parametrize("value", [" x", "0", "-"])
def test_what_is_not_empty_is_taken(refused, value):
    """As a name of a file, which does not exist."""
    refused("info", "--", value, words=["no model file"])
