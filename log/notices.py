"""Messages of a run before it begins: texts with a level."""

import logging
from typing import List, NamedTuple


class Notice(NamedTuple):
    """A line for the log. level : of the logging module, INFO or WARNING."""

    level: int
    text: str

    def __str__(self) -> str:
        return f"warning: {self.text}" if self.is_warning else self.text

    @property
    def is_warning(self) -> bool:
        return self.level >= logging.WARNING


class Notices(List[Notice]):
    """Notices in the order in which they came up."""

    def info(self, text: str) -> None:
        self.append(Notice(logging.INFO, text))

    def warn(self, text: str) -> None:
        self.append(Notice(logging.WARNING, text))

    def write(self, logger: logging.Logger) -> None:
        for notice in self:
            logger.log(notice.level, "%s", notice)
