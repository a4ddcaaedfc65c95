"""Where a checkpoint's parts lie: its tensors, its configuration files, its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openmplug.checkpoints.architecture import CONFIG_NAMES
from openmplug.errors import ModelError

DEEPSPEED = "mp_rank_00_model_states.pt"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a checkpoint's parts lie: its tensors, its configuration files, its vocabulary, and what kind of folder it is."""

    file: Path
    kind: str
    configs: tuple[Path, ...]
    vocabulary: Path | None


def find_checkpoint(path: Path) -> Found:
    """Find the tensors of a checkpoint file or folder.

    Raises:
        ModelError: If there is none, or a ModelScope folder is incomplete.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ModelError(f"'{path}' does not exist; give a checkpoint file or a folder that holds one")
    if path.is_file():
        folder, kind = path.parent, "deepspeed" if path.name == DEEPSPEED else "file"
        return Found(path, kind, _beside(folder), _vocabulary(folder))
    if (path / "configuration.json").is_file():
        return _modelscope(path)
    latest = path / "latest"
    inner = path / latest.read_text(encoding="utf-8").strip() if latest.is_file() else path
    if (inner / DEEPSPEED).is_file():
        return Found(inner / DEEPSPEED, "deepspeed", _beside(path), _vocabulary(path))
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return Found(path / name, "transformers", _beside(path), _vocabulary(path))
    files = sorted(one for pattern in ("*.pth", "*.pt", "*.bin") for one in path.glob(pattern) if one.is_file())
    if len(files) == 1:
        return Found(files[0], "file", _beside(path), _vocabulary(path))
    listed = ", ".join(one.name for one in files[:5]) or "none"
    raise ModelError(
        f"'{path}' is no folder of weights that is known (ours, ModelScope, DeepSpeed, transformers); checkpoint files in it: {listed};"
        " name one of them"
    )


def _beside(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in CONFIG_NAMES if (folder / name).is_file())


def _vocabulary(folder: Path) -> Path | None:
    return folder / "vocab.txt" if (folder / "vocab.txt").is_file() else None


def _modelscope(folder: Path) -> Found:
    needed = ("pytorch_model.bin", "config.yaml", "config_bert.json", "vocab.txt")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"ModelScope folder '{folder}' lacks {', '.join(missing)}; it should hold configuration.json, {', '.join(needed)}:"
            " download it whole"
        )
    return Found(folder / "pytorch_model.bin", "modelscope", _beside(folder), folder / "vocab.txt")
