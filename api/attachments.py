"""Answers that are no JSON: files to keep, which a browser opens from the disk and never as a page of ours."""

from collections.abc import Iterable

from starlette.responses import Response, StreamingResponse


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


# The framework reads the usual status of each from its signature.
class Csv(StreamingResponse):
    """A table for a spreadsheet, sent as its parts are made: lines as pipeline/reading/csv_tables.py makes them."""

    media_type = "text/csv"

    def __init__(self, parts: Iterable[str], name: str, status_code: int = 200) -> None:
        super().__init__(parts, status_code, _named(name))


class HtmlFile(Response):
    """A page of one file, which a browser prints."""

    media_type = "text/html"

    def __init__(self, content: str, name: str, status_code: int = 200) -> None:
        super().__init__(content, status_code, _named(name))
