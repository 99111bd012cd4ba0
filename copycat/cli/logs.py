"""Log records as lines of ``key=value`` pairs on stderr, structured fields included."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator

LEVELS = ("debug", "info", "warning", "error")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """``time=... level=... logger=... message=...``, then whatever was passed as ``extra``. One record is one line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
            if record.exc_info[2] is not None:
                fields["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


@contextlib.contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Send the library's records of ``level`` and above to stderr, and nowhere else, for as long as the command runs.

    Afterwards everything is as it was: a command may run within another program, such as a test, whose stderr of the moment is
    closed when it has ended, while threads of that program go on logging.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    library = logging.getLogger("copycat")
    before = library.handlers, library.propagate, library.level
    library.handlers, library.propagate = [handler], False
    library.setLevel(level.upper())
    try:
        yield
    finally:
        library.handlers, library.propagate = before[:2]
        library.setLevel(before[2])


def _quoted(text: str) -> str:
    plain = text.isprintable() and text and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
