"""Files of results: written aside and put in their place whole, by one process at a time where it matters."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError


@contextmanager
def writing(what: str, path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name for the block to write to, which takes the file's place once the block has ended well.

    Whoever reads the file, and whenever this process ends, finds the old file or the new one, each whole. Its folder is
    made; its mode is what the process's umask says, whatever wrote it.

    Raises:
        ValueError: ``what`` cannot be written there.
    """
    file = Path(os.path.realpath(path))
    try:
        if file.exists() and not file.is_file():
            raise ValueError(f"{what} cannot be written to {path}: it is there already, and no regular file.")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = _beside(file)
        try:
            mode = _made(part)
            yield part
            _finish(part, mode)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{what} cannot be written to {path}: {error}") from error


@contextmanager
def filling(what: str, folder: str | os.PathLike[str], last: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """A folder for the block to fill; its files are then put into the given one, over those of the same names.

    Args:
        what: What is written.
        folder: Is made if it does not exist; other files in it stay.
        last: The file without which the folder holds nothing that anybody would read. It is taken away first and put in
            place last, so that at no time there is a mixture of old and new files that passes for a whole.
        stale: Patterns of files that must not stay beside the new ones.

    Raises:
        ValueError: ``what`` cannot be written there.
    """
    target = Path(folder)
    try:
        is_new = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        part = _beside(target / last)
        try:
            part.mkdir()
            yield part
            _put(part, target, last, stale)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if is_new and not any(target.iterdir()):
                target.rmdir()
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{what} cannot be written to {os.fspath(folder)}: {error}") from error


@contextmanager
def only_here(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes, and threads, that ask for the same away from a file until the block ends.

    Raises:
        ValueError: Another one is at it.
    """
    lock = FileLock(f"{os.fspath(path)}.lock")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{path} is in use by another process: wait until it is done, or give this one a file of its own."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be locked against other processes: {error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: whoever has it open already finds that it is gone, and is refused
            os.unlink(lock.lock_file)
        lock.release()


def _beside(file: Path) -> Path:
    """A name that nobody has, in the same folder, so that it can take the other's place in one step."""
    return file.with_name(f".{secrets.token_hex(6)}.part{file.suffix}")


def _made(file: Path) -> int:
    """Make an empty file, and say which mode new files have."""
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _finish(file: Path, mode: int) -> None:
    """See a file on the disk, and give it its mode."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_IMODE(file.stat().st_mode) != mode:
        file.chmod(mode)


def _put(part: Path, target: Path, last: str, stale: Sequence[str]) -> None:
    (part / "mode").mkdir()
    mode = _made(part / "mode" / "file")
    shutil.rmtree(part / "mode")
    files = sorted((file for file in part.rglob("*") if file.is_file()), key=lambda file: file == part / last)
    for file in files:
        _finish(file, mode)
    (target / last).unlink(missing_ok=True)
    for old in [old for pattern in stale for old in target.glob(pattern)]:
        old.unlink()
    for file in files:
        new = target / file.relative_to(part)
        new.parent.mkdir(parents=True, exist_ok=True)
        file.replace(new)
