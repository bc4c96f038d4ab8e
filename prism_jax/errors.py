"""What went wrong, for the user: one line that says what was wrong, what is allowed, and what to do."""


class InputError(ValueError):
    """A wrong argument, config, weight file or checkpoint: something that the user can mend."""


class RunError(RuntimeError):
    """A run that failed although its input was right."""


class SaveError(RunError):
    """A checkpoint that could not be saved. What was saving it may never end."""


class AssetError(RunError):
    """An asset can't be had: no network, a broken download, a full disk."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= 200 else f"{reason[:196]} ..."
