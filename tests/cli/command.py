"""The command line run inside the test process, and the smallest model that can be trained through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from openmplug.cli.app import app

# A model of a few thousand parameters: what is tested here is the command, not what it learns.
TINY = [
    "model.image_size=32",
    "model.patch_size=16",
    *(f"model.{name}=16" for name in ("vision_width", "width", "embed_dim")),
    *(f"model.{name}=1" for name in ("vision_layers", "text_layers", "fusion_layers", "decoder_layers")),
    "model.connected_layers=[]",
    "model.intermediate=32",
    "model.vision_heads=2",
    "model.heads=2",
    "optim.batch_size_per_device=4",
    "optim.warmup_steps=1",
    "optim.epochs=4",  # the shipped number of epochs may be any; max_steps ends the run
    "run.validate_limit=4",
    "run.max_steps=2",
    "run.curves=false",
    "data.workers=0",
]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    def error(self, code: int) -> str:
        """Return the one line of a refused command; there is nothing else on stderr and no trace."""
        assert self.code == code, (self.code, self.err)
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in self.err + self.out
        return lines[0]


def run(*arguments: str | Path) -> Outcome:
    """Run ``openmplug ARGUMENTS``."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Outcome(result.exit_code, result.stdout, result.stderr)
