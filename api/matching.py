"""``If-Match``: whoever changes what others change too says which state they have read, by its ``ETag``."""

from fastapi import Request

from api.answers import Json
from api.problems import Problem


def see_match(request: Request, present: Json) -> None:
    """See that nobody was faster; ``present`` is what it would be read as now, and it is held. Raises Problem."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        raise Problem(428, "match-needed", "send If-Match with the ETag of what you have read")
    if wanted.strip() != "*" and present.etag not in {each.strip() for each in wanted.split(",")}:
        raise Problem(412, "changed", "somebody has changed it since: read it again, and then change that")
