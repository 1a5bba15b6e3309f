"""``If-Match``: whoever changes what others change too says which state they have read, by its ``ETag``."""

from typing import Annotated

from fastapi import Header

from api.answers import Json
from api.problems import Problem

Match = Annotated[
    str | None, Header(alias="If-Match", max_length=1_000, description="The `ETag` of what you have read, or `*`.")
]


def see_match(wanted: str | None, present: Json) -> None:
    """See that nobody was faster; ``present`` is what it would be read as now, and it is held. Raises Problem."""
    if wanted is None:
        raise Problem(428, "match-needed", "send If-Match with the ETag of what you have read")
    if wanted.strip() != "*" and present.etag not in {each.strip() for each in wanted.split(",")}:
        raise Problem(412, "changed", "somebody has changed it since: read it again, and then change that")
