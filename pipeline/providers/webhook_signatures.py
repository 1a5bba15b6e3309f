"""What is wrong with a webhook's signature, in words for the log and the answer."""


class SignatureError(Exception):
    """A signature is missing, wrong or too old: the body came from somebody else, or can't be told to be theirs."""
