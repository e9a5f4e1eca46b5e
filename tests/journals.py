"""Journals that crash: what the kernel leaves behind when a process dies, and real processes to kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serving.journal import Journal

ROOT = Path(__file__).resolve().parents[1]


def crash(journal: Journal) -> None:
    """Do what the kernel does when the process dies: close the files, and with them their locks. Nothing else."""
    if journal._descriptor is not None:
        os.close(journal._descriptor)
    os.close(journal._folder_descriptor)
    for writer in journal._writers():
        os.close(writer._lock)


def drain(journal: Journal, most: int = 500) -> tuple[list[bytes], list[str]]:
    """Every record that waits, delivered, and the places of broken lines; orphans are taken over first."""
    records, places = [], []
    journal.adopt_orphans()
    while batch := journal.next_batch(most):
        records += batch.records
        places += [line.place for line in batch.broken]
        journal.delivered(batch)
        journal.adopt_orphans()
    return records, places


def segments(folder: Path) -> list[Path]:
    """Segment files, in the order of their making."""
    return sorted(folder.glob("*.journal"))


def start_python(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that runs a script which may import the project; its standard streams are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
