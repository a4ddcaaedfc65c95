"""Exported parts on the golden inputs: onnxruntime gives what the originals gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from openmplug.inference.export.files import check, write
from openmplug.inference.export.parts import parts_of
from openmplug.tasks.vqa import VQATask
from parity.families import pixels_of
from parity.golden import Case


@pytest.mark.slow  # half a minute each: five graphs are made and optimised
@pytest.mark.parametrize("name", ["mplug_vqa_base", "mplug2_videoqa_eqwidth"])
def test_questions(name: str, golden_root: Path, tmp_path: Path) -> None:
    """Encoders, fusion, and the decoder word by word behind its cache, for right-padded questions and several answers to each."""
    import onnxruntime

    case = Case(golden_root / name)
    network = case.model(case.selection(VQATask.model_modules)).eval().requires_grad_(False)
    pixels, mask = pixels_of(case), case.mask("in.question_mask")
    seen = "clip" if pixels.ndim == 5 else "vision"
    run = {}
    for part in parts_of(network, frames=pixels.shape[1] if pixels.ndim == 5 else None):
        if part.name in (seen, "text", "fusion", "memory", "decoder"):
            write(part, tmp_path / f"{part.name}.onnx", "onnx")
            check(part, tmp_path / f"{part.name}.onnx", "onnx")
            run[part.name] = onnxruntime.InferenceSession(str(tmp_path / f"{part.name}.onnx"))

    def close(found: np.ndarray, golden: str) -> None:
        np.testing.assert_allclose(
            found, case.io[golden].numpy(), rtol=case.tolerance["activations_rtol"], atol=case.tolerance["activations_atol"], err_msg=golden
        )

    vision = run[seen].run(None, {"pixels": pixels.numpy()})[0]
    if "out.video_embeds" in case.io:
        close(vision, "out.video_embeds")
    text = run["text"].run(None, {"ids": case.get("in.question_ids").numpy(), "mask": mask.numpy()})[0]
    close(text, "out.text_embeds")
    fused_vision, fused_text = run["fusion"].run(None, {"vision": vision, "text": text, "mask": mask.numpy()})
    close(fused_vision, "out.fusion_image")
    close(fused_text, "out.fusion_text")
    memory = run["memory"].run(None, {"states": np.concatenate([fused_vision, fused_text], axis=1)})[0]
    visible = torch.cat([torch.ones(vision.shape[:2], dtype=torch.bool), mask], dim=1)
    owner = torch.arange(len(vision)).repeat_interleave(case.get("in.k"))
    ids, logits = case.get("in.answer_ids"), []
    past = np.zeros((*memory.shape[:2], len(ids), memory.shape[3], 0, memory.shape[5]), np.float32)
    for place in range(ids.shape[1]):
        given = {
            "ids": ids[:, place : place + 1].numpy(),
            "past": past,
            "memory": memory[:, :, owner],
            "memory_mask": visible[owner].numpy(),
        }
        found, past = run["decoder"].run(None, given)
        logits.append(found)
    real = case.mask("in.answer_mask").numpy()  # behind the end a text's padding counts for nothing
    wanted = case.io["out.decoder_logits"].numpy()
    np.testing.assert_allclose(np.stack(logits, axis=1)[real], wanted[real], rtol=1e-3, atol=2e-4)
