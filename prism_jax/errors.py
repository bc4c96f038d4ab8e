"""Errors that commands report to the user in one line: the fault, the allowed values, and the way out."""


class InputError(ValueError):
    """Raised for a wrong argument, config, weight file or checkpoint, which the user can correct."""


class RunError(RuntimeError):
    """Raised when a run fails although its input is right."""


class LostError(RunError):
    """Raised when a connection with another process of the run ends. The bond may know why."""


class SaveError(RunError):
    """Raised when a checkpoint could not be saved. The threads that were saving it may never end."""


class AssetError(RunError):
    """Raised when an asset is not available: no network, a broken download, a full disk."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """Returns an error's message in one line of at most `limit` characters. Without a message, returns the error's
    type."""
    message = " ".join(str(error).split())
    if not message and isinstance(error, BaseException):
        message = type(error).__name__
    return message if len(message) <= limit else f"{message[: limit - 4]} ..."
