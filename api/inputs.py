"""What bodies and paths may hold: bounded texts without NUL, ids that PostgreSQL can hold, and nothing unforeseen."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, StringConstraints


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

Text = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_without_nul)]
LongText = Annotated[str, StringConstraints(max_length=4_000), AfterValidator(_without_nul)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=2_000), AfterValidator(_without_nul)]
Label = Annotated[str, StringConstraints(max_length=100), AfterValidator(_without_nul)]


def _of_our_time(instant: datetime) -> datetime:
    if not 2000 <= instant.year <= 2200:
        raise ValueError("its year is one from 2000 to 2200")
    return instant


#: PostgreSQL holds years that Python does not, and the other way round.
Instant = Annotated[AwareDatetime, AfterValidator(_of_our_time)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$", max_length=40)]

Q = Annotated[
    str,
    Query(
        max_length=200,
        pattern=r"^[^\x00]*$",
        description="Part of a name, a number or a text; of calls also a whole SID.",
    ),
]

Since = Annotated[Instant | None, Query(alias="from", description="Then or later.")]
Until = Annotated[Instant | None, Query(alias="to", description="Before then.")]

#: In bodies.
OwnId = Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)]
E164 = Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{1,14}$")]

#: In paths.
Number = Annotated[str, Path(pattern=r"^\+[1-9][0-9]{1,14}$")]
CallSid = Annotated[str, Path(pattern=r"^[A-Z]{2}[0-9a-f]{32}$")]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
