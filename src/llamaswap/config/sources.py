"""Where a configuration comes from: a file, the files of a directory, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from llamaswap.errors import ConfigError, Problem

MAX_FILE_BYTES = 16 << 20  # a file beyond this is not a configuration
SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True, slots=True)
class Source:
    """One file's text, and its name in problems."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """`--config` and `--config-dir`; at least one of them is given."""

    file: FilePath | None = None
    directory: FilePath | None = None

    def files(self) -> list[FilePath]:
        """What is to be read, in this order: the file, then those of the directory by name.

        Of the directory: `*.yml` and `*.yaml` right in it, hidden ones (an editor's) left out. Raises
        ConfigError if there is nothing to read, or if the file lies in the directory.
        """
        found = [] if self.file is None else [self.file]
        if self.directory is None:
            return found
        if self.file is not None and self.file.resolve().parent == self.directory.resolve():
            message = f"--config {self.file} is inside --config-dir {self.directory}: leave one of the two away"
            raise ConfigError([Problem(message)])
        try:
            inside = sorted(
                path
                for path in self.directory.iterdir()
                if path.suffix in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
            )
        except OSError as error:
            raise ConfigError([_unreadable(self.directory, error, "the directory of configurations")]) from error
        if not found and not inside:
            message = f"no configuration in it; name the files *{SUFFIXES[1]} or *{SUFFIXES[0]}"
            raise ConfigError([Problem(message, file=str(self.directory))])
        return found + inside

    def read(self) -> list[Source]:
        """All their texts. Raises ConfigError with every file that cannot be read."""
        return read_all(self.files())


def read_all(paths: Sequence[FilePath | str]) -> list[Source]:
    """The texts of these files. Raises ConfigError with every one that cannot be read."""
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            sources.append(Source(str(path), _text(path)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sources


def _text(path: FilePath | str) -> str:
    file = str(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([_unreadable(path, error, "the configuration")]) from error
    if len(data) > MAX_FILE_BYTES:
        message = f"larger than {MAX_FILE_BYTES >> 20} MiB; is this the configuration?"
        raise ConfigError([Problem(message, file=file)])
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not valid {encoding.upper()}; save the file as UTF-8"
        raise ConfigError([Problem(message, file=file, line=line)]) from error


def _unreadable(path: FilePath | str, error: OSError, what: str) -> Problem:
    reason = (error.strerror or str(error)).lower()
    return Problem(f"cannot read {what}: {reason}", file=str(path))
