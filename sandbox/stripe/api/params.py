"""The parameters of a request: Stripe's nested form keys decoded, each read with Stripe's own complaint."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qsl

from sandbox.stripe.api.errors import StripeError, invalid, missing

_KEY = re.compile(r"\[([^\[\]]*)\]")


def decode(text: str) -> dict[str, Any]:
    """``items[0][price]=p&expand[]=x`` as ``{"items": [{"price": "p"}], "expand": ["x"]}``. Values stay strings."""
    tree: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        names = [key.partition("[")[0], *_KEY.findall(key)]
        node = tree
        for name in names[:-1]:
            below = node.setdefault(name or str(len(node)), {})
            if not isinstance(below, dict):
                raise invalid(names[0], f"Invalid hash: {names[0]}")
            node = below
        node[names[-1] or str(len(node))] = value
    return {key: _lists(value) for key, value in tree.items()}


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _lists(value) for key, value in node.items()}


class Params:
    """The decoded parameters. Readers return None for what is absent and raise Stripe's 400 for what is malformed.

    A parameter that nobody reads is refused by ``refuse_unread``, as Stripe refuses one that it doesn't know.
    """

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def _name(self, name: str) -> str:
        return f"{self._path}[{name}]" if self._path else name

    def raw(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(name)

    def text(self, name: str, *, longest: int = 5000) -> str | None:
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid(self._name(name), f"Invalid string: {value}")
        if len(value) > longest:
            raise invalid(
                self._name(name),
                f"Invalid string: {value[:20]}...; must be at most {longest} characters",
                "parameter_invalid_string",
            )
        return value

    def required(self, name: str, *, longest: int = 5000) -> str:
        value = self.text(name, longest=longest)
        if not value:
            raise missing(self._name(name))
        return value

    def whole(self, name: str) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise invalid(self._name(name), f"Invalid integer: {value}", "parameter_invalid_integer")
        return int(value)

    def decimal(self, name: str) -> Decimal | None:
        value = self.text(name)
        try:
            number = None if value is None else Decimal(value)
        except InvalidOperation as error:
            raise invalid(self._name(name), f"Invalid decimal: {value}") from error
        if number is not None and not number.is_finite():
            raise invalid(self._name(name), f"Invalid decimal: {value}")
        return number

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        if value not in {None, "true", "false"}:
            raise invalid(self._name(name), f"Invalid boolean: {value}")
        return None if value is None else value == "true"

    def choice(self, name: str, *choices: str) -> str | None:
        value = self.text(name)
        if value is not None and value not in choices:
            raise invalid(self._name(name), f"Invalid {self._name(name)}: must be one of {', '.join(choices)}")
        return value

    def below(self, name: str) -> "Params | None":
        """The parameters nested under ``name``; a plain value there is refused."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise invalid(self._name(name), "Invalid object", "parameter_invalid_object")
        return Params(value, self._name(name))

    def rows(self, name: str) -> "list[Params]":
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise invalid(self._name(name), "Invalid array")
        return [Params(row, f"{self._name(name)}[{position}]") for position, row in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise invalid(self._name(name), "Invalid array")
        return value

    def metadata(self, stored: dict[str, str]) -> dict[str, str]:
        """``stored`` after this request: a named key is set or, when empty, unset; an empty ``metadata`` clears all."""
        value = self.raw("metadata")
        if value is None:
            return dict(stored)
        if value == "":
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise invalid("metadata", "Invalid metadata: must be a set of key-value pairs of strings")
        return {key: item for key, item in {**stored, **value}.items() if item != ""}

    def refuse_unread(self) -> None:
        for name in self._values:
            if name not in self._read:
                raise StripeError(
                    400,
                    f"Received unknown parameter: {self._name(name)}",
                    code="parameter_unknown",
                    param=self._name(name),
                )
