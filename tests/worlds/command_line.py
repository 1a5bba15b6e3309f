"""Running `altiora` inside the test's own process: quick, and with everything but the process itself real."""

import json
import os
import sys

import structlog
from structlog import _config as structlog_config
from typer.testing import CliRunner

from ops.cli import app


def use_environment(monkeypatch, environment):
    """Let this process have these settings, and no others, until the test ends."""
    kept = {"PATH": os.environ["PATH"], "COLUMNS": "80"}
    monkeypatch.setattr(os, "environ", kept | environment)
    monkeypatch.setattr("pipeline.shared.logs.configure", lambda _: None)  # the test process has handlers of its own
    # As it begins, but to standard error, whatever other tests of this process have configured.
    begins = structlog_config._Configuration()
    begins.logger_factory = lambda *_: structlog.PrintLogger(sys.stderr)
    monkeypatch.setattr(structlog_config, "_CONFIG", begins)


class Altiora:
    """Runs commands; each must end with the status that is expected."""

    def __call__(self, *arguments, status=0):
        """What was printed on standard output, or on standard error where a failure is expected."""
        result = self.run(*arguments)
        assert result.exit_code == status, result.output
        return result.stderr if status else result.stdout

    def json(self, *arguments, status=0):
        result = self.run(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def run(self, *arguments):
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result
