"""A disk of a few megabytes that can be filled, emptied and made read-only; where mounting is allowed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PLENTY = 1 << 26  # bytes; of memory, which is taken as it is used


class Disk:
    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self._mount(f"size={PLENTY}")

    def leave(self, room: int) -> None:
        """So many bytes are free from now on."""
        told = os.statvfs(self.folder)
        self._mount(f"remount,size={(told.f_blocks - told.f_bfree) * told.f_frsize + room}")

    def make_room(self) -> None:
        self._mount(f"remount,rw,size={PLENTY}")

    def protect(self) -> None:
        """Nothing can be written from now on, not by root either."""
        self._mount("remount,ro")

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True, capture_output=True)

    def remove(self) -> None:
        subprocess.run(["umount", self.folder], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    try:
        made = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here ({error})")
    yield made
    made.remove()
