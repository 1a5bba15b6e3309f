"""What `altiora doctor` finds: one line each, with what to do where something is to be done."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """``level`` is ok; warn, where it works and may not be meant so; fail, where it does not work."""

    level: Literal["ok", "warn", "fail"]
    words: str


def ok(words: str) -> Finding:
    return Finding("ok", words)


def warn(words: str) -> Finding:
    return Finding("warn", words)


def fail(words: str) -> Finding:
    return Finding("fail", words)
