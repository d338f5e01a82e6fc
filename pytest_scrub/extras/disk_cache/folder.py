"""A folder of files that are costly to make again, of bounded size, for several processes at
once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pytest_scrub.common.whole_files import UNFINISHED, replaced_at_end

ABANDONED = 3600  # seconds after which an unfinished file is taken for one of a killed run


class BoundedFolder:
    """Holds at most `limit` bytes: what was not used for longest is deleted first.

    - `path`: the folder; it is made again where somebody deletes it.
    - `notes`: what a person should hear of at the end.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit = path, limit
        self.notes: list[str] = []
        self._is_writable = True

    def write(self, path: Path, save: Callable[[Path], None], size: int) -> bool:
        """Exchange a file as a whole, whatever happens meanwhile.

        Where that fails, for instance on a full disk, the old file stays, a note is left, and
        nothing more is tried.

        **Arguments**

        - `save`: writes a file under the name it is given.
        - `size`: how many bytes that will be.

        **Returns** whether it was written.
        """
        # raised by `save` where the system refuses
        from safetensors import SafetensorError

        if not self._is_writable or size > self.limit:
            return False
        try:
            with replaced_at_end(path) as temporary:
                self._make_room(size, path)
                save(temporary)
        except (OSError, SafetensorError) as error:
            self._is_writable = False
            self.notes.append(
                f"activations could not be kept in {self.path} ({error}); make room there, or turn "
                "this off with --scrub-cache=0"
            )
            return False
        return True

    def touch(self, path: Path) -> None:
        """Note that a file was used."""
        with suppress(OSError):  # another run may have deleted it
            os.utime(path)

    def delete(self, path: Path) -> None:
        """Delete a file, unless another run has done so."""
        with suppress(OSError):
            path.unlink()

    def _make_room(self, size: int, path: Path) -> None:
        """Delete what was not used for longest until a file of this size fits, beside all but the
        one it replaces."""
        found = []
        for other in self.path.iterdir():
            with suppress(OSError):
                found.append((other.stat().st_mtime, other.stat().st_size, other))
        total = size
        for used, taken, other in sorted(found, reverse=True):
            if other == path:
                continue
            is_unfinished = other.suffix == UNFINISHED
            is_superfluous = total + taken > self.limit and not is_unfinished
            if is_superfluous or (is_unfinished and used < time.time() - ABANDONED):
                self.delete(other)
            else:
                total += taken
