"""Files of the released sizes: no key is unaccounted for, and converting one needs little memory beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoints.released import LISTS, hollow_state, keys
from openmplug.checkpoints.foreign import open_foreign
from openmplug.models.mplug2 import MPLUG2Config

pytestmark = pytest.mark.skipif(not LISTS, reason="the key lists of the released sizes are not here; set OPENMPLUG_STATE_KEYS")

EXPECTED = {
    "mplug_base_vqa": ("mplug-base", "vqa", 384, (3,)),
    "mplug_base_caption": ("mplug-base", "caption", 384, (3,)),
    "mplug_large_vqa": ("mplug-large", "vqa", 336, ()),
    "mplug_large_retrieval": ("mplug-large", "retrieval", 336, ()),
    "mplug2_large_videoqa": ("mplug2-large", "vqa", 224, ()),
    "mplug2_large_videocap": ("mplug2-large", "caption", 224, ()),
}
SAVED = {"videocap": {"prompt": ""}, "caption": {"prompt": ""}, "videoqa": {"model_num_frames": 16}}


@pytest.mark.parametrize("path", LISTS, ids=[path.stem for path in LISTS])
def test_every_key_is_accounted_for(path: Path, tmp_path: Path) -> None:
    state = hollow_state(path)
    task = path.stem.rsplit("_", 1)[1]
    torch.save({"module": state} if task == "vqa" else {"model": state, "config": SAVED.get(task, {})}, tmp_path / "file.pth")
    foreign = open_foreign(tmp_path / "file.pth")
    assert set(foreign.mapped) | set(foreign.unused) == set(state)
    assert not foreign.new
    config = foreign.config
    assert (config.name, foreign.task, config.image_size, config.connected_layers) == EXPECTED[path.stem]
    heads = 16 if isinstance(config, MPLUG2Config) else 12
    assert (config.heads, config.vision_heads, config.fusion_layers) == (heads, config.vision_width // 64, 6)
    if isinstance(config, MPLUG2Config):
        assert (config.text_layers, config.universal_layers, config.latents, config.temporal_stride) == (24, 2, 50, 0)


WRITE = """
import sys, torch
from pathlib import Path
from checkpoints.released import keys
state = {}
for key, shape in keys(Path(sys.argv[1])):
    if "_m." not in key.split(".")[0] + ".":
        state[key] = torch.rand(shape).half() if not key.endswith("position_ids") else torch.arange(512)[None]
words = "text_decoder.bert.embeddings.word_embeddings.weight"
state["text_decoder.cls.predictions.decoder.weight"] = state[words]
state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
torch.save({"module": state}, sys.argv[2])
words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
(Path(sys.argv[2]).parent / "vocab.txt").write_text("\\n".join([*words, *(f"w{i}" for i in range(30522 - len(words)))]) + "\\n")
"""


@pytest.mark.slow
def test_converting_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    path = next(one for one in LISTS if one.stem == "mplug_large_vqa")
    assert sum(1 for _ in keys(path)) > 1000
    source = tmp_path / "mp_rank_00_model_states.pt"
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", WRITE, str(path), str(source)], check=True, env=environment)
    command = [sys.executable, "-m", "openmplug", "models", "convert", str(source), "--output", str(tmp_path / "ours"), "--json"]
    watched = (
        f"import resource, subprocess; subprocess.run({command!r}, check=True);"
        " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", watched], check=True, capture_output=True, text=True, env=environment)
    peak, size = int(done.stdout.splitlines()[-1]) * 1024, source.stat().st_size
    assert size > 1.4e9
    assert peak < 1.3 * size, f"{peak / size:.2f} times the file"
    report = json.loads("\n".join(done.stdout.splitlines()[:-1]))
    assert (report["origin"], report["task"], report["new"]) == ("deepspeed", "vqa", [])
