"""The documentation as tests see it: pages, their code blocks, the commands in them, and what is not tried for which reason.

The tables at the top are the only exceptions there are. A line in one of them wants a reason that a reader believes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])

STAND_INS = {
    "mplug-base": "a released file of 1.4 GB is not at hand; a tiny model is loaded in its place, with the same arguments checked",
    "someone/mplug-on-the-hub": "the hub is not asked in tests; a tiny model is loaded in its place",
}
"""What ``openmplug.load`` is given in a page and cannot be loaded here -> why."""

NOT_EXECUTED = {
    ("adapters.md", 'quantize="int8"'): "needs torchao (extra [export]), which slows every import of peft and is left out of development",
}
"""Page and a piece of a Python block -> why the block is compiled and its names are checked, but it is not run."""

PARSED_ONLY = {
    "data shard": "packs the reader's own data; run in tests/cli/test_shard.py",
    "models convert": "reads released files; run on files of the same form in tests/checkpoints",
    "judge dsg": "reads the benchmark's own files; run in tests/cli/test_judge_command.py",
    "judge dpg": "as judge dsg",
    "judge tifa": "as judge dsg",
    "results add": "reads a finished evaluation; run in tests/engine/test_results.py",
}
"""Verbs with ``--dry-run`` whose commands are parsed to the end but not run even so -> why."""

NOT_OURS = {
    "awk": "the reader's shell",
    "cat": "the reader's shell",
    "cd": "the reader's shell",
    "cp": "the reader's shell",
    "curl": "asks the service, which its own tests do",
    "docker": "needs an engine",
    "export": "the reader's shell",
    "git": "the reader's copy",
    "mkdir": "the reader's shell",
    "srun": "a cluster's; the torchrun it starts is the line of its own above it",
    "sudo": "the reader's machine",
    "systemctl": "the reader's machine",
    "#SBATCH": "a cluster's",
}
"""Programs in shell blocks that are not tried -> why. Any other program in a block marked ``bash`` must be one that is checked."""

CHECKED = ("openmplug", "make", "pip", "python", "pytest", "torchrun")
SHELLS = ("", "bash", "sh", "console")

_FENCE = re.compile(r"^([ ]*)```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins at, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Name it as an editor does."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        inner = "".join(line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True))
        found.append(Block(page, text[: match.start()].count("\n") + 1, match[2], inner))
    return found


@dataclass(frozen=True)
class Command:
    """A command of a shell block as its words, and where it stands."""

    place: str
    words: tuple[str, ...]
    strict: bool
    """The block says that it is one for a shell."""

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.words)}"[:110]

    def openmplug(self) -> list[str] | None:
        """Return the arguments of openmplug, also behind ``torchrun … -m`` or ``python -m``; None for another program."""
        words = list(self.words)
        if words[0] == "openmplug":
            return words[1:]
        if words[0] in ("torchrun", "python") and "openmplug" in words and words[words.index("openmplug") - 1] == "-m":
            return words[words.index("openmplug") + 1 :]
        return None


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a shell block: continued lines are joined, comments, prompts, redirections and assignments taken off."""
    if block.language not in SHELLS:
        return
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console" or any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    waiting = ""
    for line in lines:
        if line.startswith("#SBATCH"):
            continue
        waiting += line + "\n"
        try:
            words = _words(waiting)
        except ValueError:  # a quotation that goes on in the next line
            continue
        waiting = ""
        for part in _parts(words):
            yield Command(block.place, tuple(part), block.language != "")
    # In a block of no language an apostrophe may stand alone: it is prose or output, and nothing of it is a command.
    assert not waiting.strip() or block.language == "", f"{block.place}: a quotation is not closed"


def _words(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    return list(reader)


def _parts(words: list[str]) -> Iterator[list[str]]:
    """Split words at pipes and the like; take off redirections and assignments."""
    part: list[str] = []
    skip = False
    for word in [*words, ";"]:
        if skip:
            skip = False
        elif word and set(word) <= set("|&;"):
            while part and _ASSIGNMENT.match(part[0]):
                part = part[1:]
            if part:
                yield part
            part = []
        elif word and set(word) <= set("<>&"):
            part = part[:-1] if part and part[-1] in ("1", "2") else part
            skip = True
        else:
            part.append(word)
