"""What the parser reports about a wrong command line, as one sentence of ours.

Typer's exceptions are of its own or of click's by release, so they are told apart by name, attributes and message, not
by class.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from alexnet_deploy.core.process.say import counted

PROGRAM = "alexnet-deploy"

_NO_COMMAND = re.compile(r"No such command '(?P<name>.*?)'", re.DOTALL)
_EXTRA = re.compile(r"Got unexpected extra argument(?:s|\(s\))? \((?P<names>.*)\)", re.DOTALL)
_NO_CHOICE = re.compile(r"(?P<given>.*?) is not one of (?P<choices>'.*')\.?", re.DOTALL)
_OUT_OF_RANGE = re.compile(r"(?P<given>.*?) is not in the range x>=(?P<least>\d+(?:\.\d+)?)\.?")
_NO_NUMBER = re.compile(r"(?P<given>.*?) is not a valid (?P<kind>integer|float)(?: range)?\.?", re.DOTALL)
_NUMBERS = {"int": "a whole number", "float": "a number", "integer": "a whole number"}


class Parameter(Protocol):
    """An option or an argument of a command; an argument may have a `metavar`."""

    @property
    def name(self) -> str | None:
        """The parameter's name in Python."""

    @property
    def opts(self) -> list[str]:
        """The names on the command line."""

    @property
    def secondary_opts(self) -> list[str]:
        """The names that switch it off."""

    @property
    def param_type_name(self) -> str:
        """`option` or `argument`."""


class Command(Protocol):
    """A command, or the program itself, whose commands are in its attribute `commands`."""

    @property
    def params(self) -> Sequence[Parameter]:
        """Its options and arguments."""


def wrong_use_words(error: Exception, program: Command, arguments: Sequence[str]) -> str:
    """Return a parser's error as one sentence: which argument is wrong, what is needed, and the nearest match."""
    commands: dict[str, Command] = getattr(program, "commands", {})
    # The parser does not always say in which command it failed.
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    command = commands.get(named, program)
    name = named if named in commands else PROGRAM
    message = str(getattr(error, "message", error)).strip().removeprefix("Value error, ")
    parameter: Parameter | None = getattr(error, "param", None)
    option: str | None = getattr(error, "option_name", None)
    if found := _NO_COMMAND.search(message):
        return _no_command(found["name"], commands)
    if parameter is not None and type(error).__name__ == "MissingParameter":
        return f"{name}: {_shown(parameter)} is missing{_help_of(name)}"
    if parameter is not None:
        return f"{_shown(parameter)}: {_value_words(error, message)}"
    if option is not None and type(error).__name__ == "NoSuchOption":
        return _no_option(option, name, command)
    if option is not None:
        needs = "takes no value" if "not take" in message else "needs a value"
        return f"{option}: {needs}{_help_of(name)}"
    if found := _EXTRA.fullmatch(message.rstrip(".")):
        return _extra(found["names"].split(), name, command)
    return f"{name}: {message.rstrip('.')}{_help_of(name)}"


def _no_command(given: str, commands: dict[str, Command]) -> str:
    return f"there is no command {given}" + (_near(given, commands) or _help_of(PROGRAM, "commands"))


def _no_option(given: str, name: str, command: Command) -> str:
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    # A short option is never a misspelt one: -x is as near to -h as to -0.
    near = _near(given, {option for option in options if option.startswith("--")}) if given.startswith("--") else ""
    return f"{name}: there is no option {given}{near or _help_of(name)}"


def _extra(given: Sequence[str], name: str, command: Command) -> str:
    taken = [_shown(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    takes = f"takes {counted(len(taken), 'argument')}, {' and '.join(taken)}" if taken else "takes only options"
    return f"{name}: {takes}, but the command line has {' '.join(given)} too{_help_of(name)}"


def _shown(parameter: Parameter) -> str:
    """Return the long name of an option, or an argument as the help shows it, without its optional part."""
    if parameter.param_type_name == "option":
        return parameter.opts[0]
    return (
        re.sub(r"\[.*?\] *", "", getattr(parameter, "metavar", None) or "")
        or (parameter.name or "").rstrip("_").upper()
    )


def _value_words(error: Exception, message: str) -> str:
    """Return what is wrong with a value that was given."""
    # Typer's validator is pydantic in newer releases; its error is the cause.
    report = getattr(error.__cause__, "errors", None)
    if callable(report):
        (problem, *_) = report()
        kind, given, context = str(problem["type"]), problem["input"], problem.get("ctx", {})
        if kind == "greater_than_equal":
            return f"must be {context['ge']:g} or more, got {given}"
        if kind == "less_than_equal":
            return f"must be {context['le']:g} or less, got {given}"
        if (number := _NUMBERS.get(kind.partition("_")[0])) is not None:
            return f"must be {number}, got {given}"
    if found := _NO_CHOICE.fullmatch(message):
        given, choices = found["given"].strip("'"), re.findall(r"'(.*?)'", found["choices"])
        return f"must be {', '.join(choices[:-1])} or {choices[-1]}, got {given}{_near(given, choices)}"
    if found := _OUT_OF_RANGE.fullmatch(message):
        return f"must be {float(found['least']):g} or more, got {found['given']}"
    if found := _NO_NUMBER.fullmatch(message):
        return f"must be {_NUMBERS[found['kind']]}, got {found['given'].strip(chr(39))}"
    return message.rstrip(".")


def _near(given: str, names: Iterable[str]) -> str:
    """Return the names that begin like a wrong one, or else the most similar one, as a question; empty if none is."""
    plain = {name.lstrip("-").replace("_", "-"): name for name in names}
    wrong = given.lstrip("-").lower().replace("_", "-")
    near = sorted(name for name in plain if wrong and name.startswith(wrong))
    near = near or difflib.get_close_matches(wrong, plain, n=1)
    return f"; did you mean {' or '.join(plain[name] for name in near)}?" if near else ""


def _help_of(name: str, what: str = "options") -> str:
    place = PROGRAM if name == PROGRAM else f"{PROGRAM} {name}"
    return f"; `{place} --help` shows the {what}"
