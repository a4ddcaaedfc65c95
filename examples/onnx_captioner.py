"""Captions of pictures by an exported model: onnxruntime, numpy and Pillow, nothing else.

openmplug export small --output exported
python onnx_captioner.py exported photo.jpg ...
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


class Captioner:
    def __init__(self, folder):
        self.folder, self.told = Path(folder), json.loads((Path(folder) / "export.json").read_text())
        self.words = (self.folder / self.told["tokens"]["vocabulary"]).read_text(encoding="utf-8").split("\n")
        self.parts = {name: onnxruntime.InferenceSession(self.folder / part["file"]) for name, part in self.told["parts"].items()}

    def run(self, part, **inputs):
        outputs = self.parts[part].run(None, inputs)
        return dict(zip(self.told["parts"][part]["outputs"], outputs, strict=True))

    def caption(self, path):
        image, settings = self.told["image"], self.told["caption"]
        picture = Image.open(path).convert("RGB").resize((image["size"], image["size"]), Image.Resampling.BICUBIC)
        pixels = (np.asarray(picture, np.float32) / 255 - np.float32(image["mean"])) / np.float32(image["std"])
        states = self.run("vision", pixels=pixels.transpose(2, 0, 1)[None])["states"]
        if settings["instruction_ids"]:  # the decoder sees the picture and the instruction, fused
            ids = np.array([settings["instruction_ids"]])
            mask = np.ones(ids.shape, bool)
            fused = self.run("fusion", vision=states, text=self.run("text", ids=ids, mask=mask)["states"], mask=mask)
            states = np.concatenate([fused["vision_fused"], fused["text_fused"]], axis=1)
        memory, end = self.run("memory", states=states)["memory"], self.told["tokens"]["end"]
        visible = np.ones(states.shape[:2], bool)
        cache = [{"rows": 1, "past": 0}.get(size, size) for size in self.told["cache"]]
        new, past, written = np.array([settings["given_ids"]]), np.zeros(cache, np.float32), []
        while len(written) < settings["max_length"]:
            step = self.run("decoder", ids=new, past=past, memory=memory, memory_mask=visible)
            if len(written) < settings["min_length"]:
                step["logits"][0, end] = -np.inf
            best, past = int(step["logits"][0].argmax()), step["present"]
            if best == end:
                break
            written.append(best)
            new = np.array([[best]])
        text = (" " + " ".join(self.words[index] for index in written)).replace(" ##", "").strip()
        for spaced, tidy in self.told["tokens"]["tidied"]:
            text = text.replace(spaced, tidy)
        return text


if __name__ == "__main__":
    captioner = Captioner(sys.argv[1])
    for name in sys.argv[2:]:
        print(f"{name}: {captioner.caption(name)}")
