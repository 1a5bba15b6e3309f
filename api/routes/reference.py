"""The API's reference: its description as a file, and as a page on which one can try it. Nothing comes from outside."""

import hashlib
import re
from base64 import b64encode
from importlib.resources import files

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

from api.asking import anybody
from api.description import FILE
from api.problems import missing

router = APIRouter(prefix="/v1", include_in_schema=False, dependencies=[anybody()])

#: Swagger UI, as a package brings it.
_PARTS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_STATIC = files("fastapi_offline") / "static"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def _page() -> tuple[bytes, str]:
    """The page, and the policy that lets its own parts run and nothing else."""
    html = get_swagger_ui_html(
        openapi_url="/v1/openapi.json",
        title="Altiora's API",
        swagger_js_url="/v1/docs/swagger-ui-bundle.js",
        swagger_css_url="/v1/docs/swagger-ui.css",
        swagger_favicon_url="/v1/docs/favicon.png",
    )
    content = bytes(html.body)
    (script,) = _SCRIPT.findall(content)
    digest = b64encode(hashlib.sha256(script).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return content, policy


_HTML, _POLICY = _page()


@router.get("/openapi.json")
def description() -> Response:
    """OpenAPI 3.1, as it is committed."""
    return Response(FILE.read_bytes(), media_type="application/json")


@router.get("/docs")
def page() -> Response:
    """What one can ask, to read and to try: with an API key, or an access token."""
    return Response(_HTML, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/{part}")
def part(part: str) -> Response:
    """What the page is made of."""
    if part not in _PARTS:
        raise missing("this part")
    content = (_STATIC / part).read_bytes()
    return Response(content, media_type=_PARTS[part], headers={"Cache-Control": "public, max-age=86400"})
