"""The reference: as a file for programs, and as a page that a browser shows without anything from outside."""

import json

import pytest

from api.description import FILE
from tests.worlds.browser import chromium
from tests.worlds.people import PASSWORD


def test_the_description_is_served_as_it_is_committed(api):
    answer = api.client().get("/openapi.json")
    assert answer.content == FILE.read_bytes()
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("part", ["nothing.js", "..%2f__init__.py", "redoc.standalone.js"])
def test_nothing_but_its_parts_is_served(api, part):
    assert api.client().get(f"/docs/{part}").status_code == 404


def test_the_page_shows_every_operation_and_lets_one_try_it(api, people):
    ada = people.user("Ada")
    people.business("Bakery", owner=ada)
    token = api.signed_in(ada).headers["authorization"].removeprefix("Bearer ")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{api.url}/v1/docs")
        page.wait_for_selector(".opblock")
        operations = sum(len(each) for each in json.loads(FILE.read_text())["paths"].values())
        assert page.locator(".opblock").count() == operations
        page.get_by_role("button", name="Authorize").first.click()
        page.locator(".auth-container input").fill(token)
        page.locator(".auth-btn-wrapper .authorize").click()
        page.locator(".auth-btn-wrapper .btn-done").click()
        tried = page.locator("#operations-me-show_me_v1_me_get")
        tried.locator(".opblock-summary-control").click()
        tried.get_by_role("button", name="Try it out").click()
        tried.get_by_role("button", name="Execute").click()
        tried.get_by_text("ada@example.com").first.wait_for()
    assert said == []
    assert {url.split("/v1/")[0] for url in asked if not url.startswith("data:")} == {api.url}
    assert PASSWORD not in "".join(asked)
