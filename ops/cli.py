"""The command `altiora`: which command is found where, and how each of them ends.

Exit status 0: done; 1: something was found wrong; 2: used wrongly, or a setting is missing. Whatever is wrong is told
in a sentence on standard error.
"""

from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ops.commands.output import WrongError, say, warn
from pipeline.shared.clock import ClockError
from pipeline.shared.settings import SettingsError
from pipeline.shared.version import VERSION, commit

#: Each command and where it is: a function, or a Typer application with commands of its own. Only the module of the
#: one that is asked for is loaded, so that `altiora usage` does not wait for Celery, Stripe and Twilio.
_COMMANDS = {
    "demo": "ops.demo.command:demo",
    "up": "ops.commands.up:up",
    "migrate": "ops.commands.schema:migrate",
    "seed": "ops.commands.schema:seed",
    "receiver": "ops.commands.run:receiver",
    "api": "ops.commands.run:api",
    "worker": "ops.commands.run:worker",
    "beat": "ops.commands.run:beat",
    "flower": "ops.commands.run:flower",
    "sandbox": "ops.commands.sandbox:sandbox",
    "business": "ops.commands.businesses:app",
    "user": "ops.commands.users:app",
    "key": "ops.commands.keys:app",
    "plans": "ops.commands.plans:app",
    "backlog": "ops.commands.backlog:backlog",
    "events": "ops.commands.events:app",
    "usage": "ops.commands.usage:usage",
    "subscription": "ops.commands.subscription:app",
    "explain": "ops.commands.explain:explain",
    "statement": "ops.commands.statement:statement",
    "close": "ops.commands.close:close",
    "pushes": "ops.commands.pushes:app",
    "drifts": "ops.commands.drifts:app",
    "rebuild": "ops.commands.rebuild:rebuild",
    "restore": "ops.commands.restore:app",
    "reconcile": "ops.commands.reconcile:reconcile",
    "audit": "ops.commands.audit:audit",
    "doctor": "ops.doctor.command:doctor",
}

#: They need the stand-ins' and the embedded servers' packages, which a deployed installation does not have.
_SIMULATED = {"demo", "up", "sandbox"}


class _Commands(TyperGroup):
    """The commands of the table, loaded when they are asked for, and their errors told as sentences.

    ``ctx`` is a typer.Context; the base class's type of it is not public.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        try:
            found = getattr(import_module(module), name)
        except ModuleNotFoundError:
            if cmd_name not in _SIMULATED:
                raise
            found = _not_installed
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            # What a command that is not installed would take is not known.
            lenient = {"ignore_unknown_options": True, "allow_extra_args": True}
            found.command(context_settings=lenient if function is _not_installed else None)(function)
        command = get_command(found)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WrongError as error:
            _end(error, 1)
        except (SettingsError, ClockError) as error:
            _end(error, 2)


def _not_installed() -> None:
    """Not installed here: it simulates, and needs `make install`, or pip install '.[sandbox]'."""
    raise WrongError("this command simulates; it needs `make install`, or pip install '.[sandbox]'")


def _end(error: Exception, status: int) -> NoReturn:
    warn(f"altiora: {error}")
    raise typer.Exit(status) from error


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, where secrets may be
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"altiora {VERSION} ({commit()})")
        raise typer.Exit


@app.callback()
def _altiora(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show version and commit.")
    ] = False,
) -> None:
    """Bill the minutes of AI phone agents: Stripe and Twilio webhooks in, each minute on the right invoice once."""


def main() -> None:
    """The entry point of `altiora` and of `python -m ops.cli`."""
    app()


if __name__ == "__main__":
    main()
