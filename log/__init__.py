"""What a run says: lines, figures, curves. The bottom room: it imports none of the others."""


class UserError(Exception):
    """An error that the user can correct. One line: the file or flag, the fault, what to do."""


#: What to do where a package is missing.
NO_PACKAGES = "source .venv/bin/activate first; ./run.sh setup makes .venv"


class LogError(UserError):
    """A log that can't be written or read."""


class Interrupted(Exception):
    """A signal (`signal`, its number) ended a run; its checkpoint is written."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number
