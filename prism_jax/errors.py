"""What went wrong, for the user: one line that says what was wrong, what is allowed, and what to do."""


class InputError(ValueError):
    """A wrong argument, config, weight file or checkpoint: something that the user can mend."""


class RunError(RuntimeError):
    """A run that failed although its input was right."""


class SaveError(RunError):
    """A checkpoint that could not be saved. What was saving it may never end."""


class AssetError(RunError):
    """An asset can't be had: no network, a broken download, a full disk."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """Returns the message of an error in one line of at most `limit` characters; its type, if there is no message."""
    message = " ".join(str(error).split())
    if not message and isinstance(error, BaseException):
        message = type(error).__name__
    return message if len(message) <= limit else f"{message[: limit - 4]} ..."
