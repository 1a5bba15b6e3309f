"""What mails say: a subject, some sentences, one thing to do. As text and as HTML, in the look of the statements."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from accounts.mails import MailKind
from accounts.rights import Role

_HTML = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


@dataclass(frozen=True, slots=True)
class MailText:
    """A mail. ``button``: its words and where it leads."""

    subject: str
    paragraphs: Sequence[str]
    button: tuple[str, str]

    @property
    def plain(self) -> str:
        """As text."""
        words, address = self.button
        return "\n\n".join([*self.paragraphs, f"{words}:\n{address}", "Altiora"]) + "\n"

    @property
    def html(self) -> str:
        """As HTML, which loads nothing from anywhere."""
        words, address = self.button
        about = {"subject": self.subject, "paragraphs": self.paragraphs, "words": words, "address": address}
        return _HTML.get_template("mail.html").render(about)


_UNASKED = "If you did not ask for this, there is nothing to do."
_WATCH = "If this was not you, sign in, look at your sessions, and change your password."


def link_text(
    kind: MailKind, address: str, *, known: bool, business: str | None, role: Role | None, inviter: str | None
) -> MailText:
    """A mail with a link to ``address``. ``known``: whether whoever gets it has an account."""
    who = inviter or "Altiora"
    match kind:
        case MailKind.SIGN_UP:
            return MailText(
                "Your account at Altiora",
                [
                    "Choose a name and a password, and your account is there.",
                    f"The link works for 30 minutes. {_UNASKED}",
                ],
                ("Set up your account", address),
            )
        case MailKind.RESET:
            return MailText(
                "A new password",
                [
                    "Somebody, you we hope, wants to set a new password for this address.",
                    f"The link works for 30 minutes. {_UNASKED} Your second factor stays as it is.",
                ],
                ("Set a new password", address),
            )
        case MailKind.ADDRESS:
            return MailText(
                "Is this your address?",
                ["Your account at Altiora shall have this address.", f"The link works for 30 minutes. {_UNASKED}"],
                ("Use this address", address),
            )
        case MailKind.INVITATION:
            assert role is not None
            return MailText(
                f"{business} invites you",
                [
                    f"{who} invites you to work in {business}, as {role.value}.",
                    "The link works for seven days."
                    + ("" if known else " You choose a name and a password there.")
                    + f" {_UNASKED}",
                ],
                ("Accept the invitation", address),
            )
        case MailKind.OWNERSHIP:
            return MailText(
                f"{business} shall be yours",
                [
                    f"{who} hands {business} over to you: its plan, its invoices and its people.",
                    f"The link works for seven days. {_UNASKED}",
                ],
                ("Accept the business", address),
            )
        case _:
            assert kind is MailKind.STAFF
            return MailText(
                "Your account at Altiora",
                ["An account was made ready for you.", f"The link works for 30 minutes. {_UNASKED}"],
                ("Go on", address),
            )


def known_already(address: str) -> MailText:
    """For who signs up and has an account."""
    return MailText(
        "You have an account already",
        ["Somebody, you we hope, signed up with this address, which has an account.", _UNASKED],
        ("Sign in, or set a new password", address),
    )


def notice_text(kind: MailKind, dashboard: str, *, business: str | None) -> MailText:
    """A mail about what has happened."""
    subject, said = {
        MailKind.ADDRESS_CHANGING: (
            "Your address is being changed",
            ["Your account at Altiora gets another address as soon as that one is confirmed.", _WATCH],
        ),
        MailKind.PASSWORD_CHANGED: ("Your password was changed", ["All sessions have ended.", _WATCH]),
        MailKind.SECOND_FACTOR_ON: ("A second factor was set up", ["Signing in asks for a code from now on.", _WATCH]),
        MailKind.SECOND_FACTOR_OFF: (
            "Your second factor is gone",
            ["Signing in asks for your password only.", _WATCH],
        ),
        MailKind.SESSION_COPIED: (
            "A session of yours was ended",
            ["It was used from two places at once: somebody may have copied it.", _WATCH],
        ),
        MailKind.ROLE_CHANGED: (
            f"Your role in {business}",
            [f"What you may do in {business} has changed. Your sessions go on."],
        ),
        MailKind.KEYS_SHRUNK: (
            f"API keys of {business} will end",
            [
                "Who made them may do less now, and so may they. They end in seven days.",
                "Rotate those that you need: they are yours then.",
            ],
        ),
    }[kind]
    return MailText(subject, said, ("Open Altiora", dashboard))
