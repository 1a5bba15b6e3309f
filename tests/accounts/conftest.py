"""What tests of accounts ask for."""

import pytest

from accounts.secret_keys import SecretKeys
from tests.worlds.people import SECRET, People


@pytest.fixture
def keys() -> SecretKeys:
    return SecretKeys([SECRET])


@pytest.fixture
def people(engine, keys) -> People:
    return People(engine, keys)
