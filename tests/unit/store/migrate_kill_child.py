"""Opens a store and kills itself just before the n-th SQL statement of that.

Usage: python migrate_kill_child.py FOLDER N
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from fedfleet.store.sqlite import SqliteStore


def main(folder: Path, statement: int) -> None:
    connect = sqlite3.connect
    left = statement

    def count(sql: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = counting
    SqliteStore(folder).close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
