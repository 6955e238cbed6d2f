"""Writing of result files: to a temporary file that then replaces the old one, and locks against other processes."""

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
    """Give the block a temporary file to write, which replaces the file when the block has ended without an error.

    At any time, even if the process ends, the file is either the complete old or the complete new one. Missing folders
    are made. The file's mode is the one that the process's umask gives.

    Args:
        what: Name of the content, for messages.
        path: The file.

    Raises:
        ValueError: The file cannot be written.
    """
    file = Path(os.path.realpath(path))
    try:
        if file.exists() and not file.is_file():
            raise ValueError(f"{what} cannot be written to {path}: it exists already and is no regular file.")
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


def write_text(what: str, path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file, completely or not at all, and return its path; see :func:`writing`."""
    with writing(what, path) as file:
        file.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


@contextmanager
def filling(what: str, folder: str | os.PathLike[str], last: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Give the block a temporary folder to fill, whose files then replace those of the same names in the given folder.

    Args:
        what: Name of the content, for messages.
        folder: Is made if it does not exist; other files in it stay.
        last: The file without which the folder cannot be read. It is removed first and put in place last, so that a
            mixture of old and new files is never readable.
        stale: Patterns of old files to remove.

    Raises:
        ValueError: The folder cannot be written.
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
    """Lock a file against other processes and threads that use this function, until the block ends.

    Raises:
        ValueError: Another process or thread holds the lock, or the file cannot be locked.
    """
    lock = FileLock(f"{os.fspath(path)}.lock")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{path} is in use by another process: wait until it is done, or give another file."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be locked against other processes: {error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # while the lock is held: a process that has the file open already cannot lock it then
            os.unlink(lock.lock_file)
        lock.release()


def _beside(file: Path) -> Path:
    """Return an unused name in the same folder, from which a file can replace the other in one step."""
    return file.with_name(f".{secrets.token_hex(6)}.part{file.suffix}")


def _made(file: Path) -> int:
    """Make an empty file and return the mode of new files."""
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _finish(file: Path, mode: int) -> None:
    """Write a file through to the disk and set its mode."""
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
