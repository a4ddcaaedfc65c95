"""Every golden checkpoint file, converted by the command: its folder reproduces the case's outputs and goes back bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.command import run
from openmplug.checkpoints.store import read_config, read_weights
from openmplug.models.families import build_network, saved_config
from openmplug.models.network import Network
from parity.families import FAMILIES
from parity.golden import Case
from parity.test_golden import FOLDERS

FILES = [path for folder in FOLDERS for pattern in ("*.pth", "*.pt") for path in sorted(folder.glob(pattern))]


class ConvertedCase(Case):
    """A case whose model comes out of a converted folder."""

    def __init__(self, folder: Path, converted: Path) -> None:
        super().__init__(folder)
        self.converted = converted

    def model(self, modules: tuple[str, ...]) -> Network:
        model = build_network(saved_config(read_config(self.converted)), modules)
        tensors = {key: value.float() for key, value in read_weights(self.converted).items() if key in model.state_dict()}
        model.load_state_dict(tensors)
        return model.eval()


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.name}" for file in FILES])
def test_checkpoint(file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert run("models", "convert", file, "--output", tmp_path / "ours").code == 0
    converted = ConvertedCase(file.parent, tmp_path / "ours")
    FAMILIES[converted.family](converted)
    converted.ledger.close()
    assert run("models", "convert", tmp_path / "ours", "--output", tmp_path / "back.pth").code == 0
    before, after = (torch.load(path, weights_only=True) for path in (file, tmp_path / "back.pth"))
    wrapper = "module" if "module" in before else "model"
    assert list(before[wrapper]) == list(after[wrapper])
    for key, tensor in before[wrapper].items():
        assert tensor.dtype == after[wrapper][key].dtype
        assert torch.equal(tensor, after[wrapper][key]), key
