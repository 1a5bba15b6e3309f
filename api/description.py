"""The API's own description, as it is committed in openapi.json: run `make schema` after a change."""

import re
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

FILE = Path(__file__).with_name("openapi.json")

_PROBLEM = {
    "description": "A problem (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemShown"}}},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "Sent again with the same key within a day, it is done once and answered the same.",
}
_ETAG = {"schema": {"type": "string"}, "description": "A hash of the answer."}
_LOCATION = {"schema": {"type": "string"}, "description": "Where it is, if it has an address of its own."}
_PYTHON = re.compile(r"\bNone\b")

_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token of POST /v1/sessions, or an API key",
}


def describe(app: FastAPI) -> bytes:
    """OpenAPI 3.1 as JSON: each operation with its right (``x-altiora-right``) and how it refuses."""
    document = app.openapi()
    for route in iter_route_contexts(app.routes):
        original = route.original_route
        if not isinstance(original, APIRoute) or not original.include_in_schema:
            continue
        (right,) = rights_named(original)
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            operation["x-altiora-right"] = right
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _PROBLEM
            operation["security"] = [] if right == "anybody" else [{"bearer": []}]
            operation["summary"] = operation["description"].partition(".")[0].partition(":")[0]
            if method == "POST" and right != "anybody":
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            for status, answer in operation["responses"].items():
                if status in {"200", "201", "202"} and "application/json" in answer["content"]:
                    answer["headers"] = {"ETag": _ETAG} | ({"Location": _LOCATION} if status == "201" else {})
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"bearer": _BEARER}
    _say_it_in_json(document)
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _say_it_in_json(part: Any) -> None:
    """Descriptions are those of our code: what they say of Python is said of JSON."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key == "description" and isinstance(value, str):
            part[key] = _PYTHON.sub("null", value.replace("``", "`"))
        elif isinstance(value, dict | list):
            _say_it_in_json(value)


def rights_named(route: APIRoute) -> set[str]:
    """The rights that a route names, by its own dependencies and its router's; there is one."""
    found: set[str] = set()
    waiting: list[Any] = [route.dependant]
    while waiting:
        each = waiting.pop()
        waiting += each.dependencies
        if right := getattr(each.call, "right", None):
            found.add(right)
    return found
