"""The folder of a study: results that are only ever appended, and claims on the runs under way.

Several launches may share a folder on one machine. Both rest on `flock`, which the kernel gives back when a process
ends, however it ends: a claim cannot outlive its holder, and no clock decides whether one is stale. (Network file
systems may not carry `flock` from one machine to another: give each machine a folder of its own, and join the results
files afterwards.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """Results and claims of a study.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path):
        """See the class."""
        self.folder = folder
        self.results = folder / "results.jsonl"
        self._claims = folder / "claims"

    def create(self) -> None:
        """Make the folders."""
        self._claims.mkdir(parents=True, exist_ok=True)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the finished runs by id.

        A line that a killed process left unfinished holds no result, and is passed over.
        """
        if not self.results.is_file():
            return {}
        found: dict[str, dict[str, Any]] = {}
        for line in self.results.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                found.setdefault(record["id"], record)
        return found

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line, on disk when this returns."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        descriptor = os.open(self.results, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            # What a killed process left of a line must not swallow this one.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            written = b"\n" * torn + line
            if file.write(written) != len(written):
                raise OSError(f"{self.results}: the line was not written whole; is the disk full?")
            os.fsync(descriptor)

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[Path | None]:
        """Claim a run while the block lasts.

        Gives:
            A fresh folder for what the run writes, deleted afterwards; None if another process runs it.
        """
        path = self._claims / run_id
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            os.utime(descriptor)  # since when: `running` reads it
            work = self._claims / f"{run_id}.work"
            shutil.rmtree(work, ignore_errors=True)  # a killed run's
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
                # A process that opened the file before may still lock it: who claims looks into the results again.
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def running(self) -> dict[str, float]:
        """Return the ids of the runs under way, and for how many seconds each has been."""
        found = {}
        for path in sorted(self._claims.glob("*")):
            if path.suffix != ".work":
                with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                    try:
                        # Shared, so that two who look do not take each other for a run.
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        found[path.name] = max(0.0, time.time() - path.stat().st_mtime)
        return found
