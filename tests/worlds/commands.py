"""The commands of `altiora` as they are found and parsed, without running them."""

from typing import Any

from typer.main import get_command

from ops.cli import app


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command of `altiora` that these words name, and the words that are left."""
    command: Any = get_command(app)
    context = command.make_context("altiora", ["backlog"])
    while hasattr(command, "list_commands"):
        assert words, "a command is missing"
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    return command, words
