"""What tests of the API ask for."""

import pytest

from accounts.secret_keys import SecretKeys
from tests.worlds.api import serving_api
from tests.worlds.people import SECRET, People


@pytest.fixture
def people(engine) -> People:
    return People(engine, SecretKeys([SECRET]))


@pytest.fixture
def api(people):
    with serving_api(people) as it:
        yield it
