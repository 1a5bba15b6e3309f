"""What bodies and paths may hold: bounded texts without NUL, ids that PostgreSQL can hold, and nothing unforeseen."""

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints


class Input(BaseModel):
    """The base of every body: what it does not name is refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False, frozen=True, hide_input_in_errors=True)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    return text


def _storable(password: SecretStr) -> SecretStr:
    password.get_secret_value().encode()  # half a character (a lone surrogate) is none
    return password


#: How long and how good it has to be is not the form's to say (accounts/passwords.py).
Password = Annotated[SecretStr, Field(max_length=1_000), AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_without_nul)]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"format": "email"}),
]
Code = Annotated[str, StringConstraints(min_length=6, max_length=40), AfterValidator(_without_nul)]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_without_nul)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_without_nul)]

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
