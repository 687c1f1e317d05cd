"""What a run says: lines, figures, curves. The bottom room: it imports none of the others."""


class UserError(Exception):
    """What a user can mend. One line: the file or flag, what is wrong with it, the way out."""


class LogError(UserError):
    """A log that can't be written or read."""


class Interrupted(Exception):
    """A signal (`signal`, its number) ended a run; its checkpoint is written."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number
