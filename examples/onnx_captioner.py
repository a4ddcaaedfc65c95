"""Captions of pictures by `openmplug export MODEL --output FOLDER`, with beam search: python onnx_captioner.py FOLDER PICTURE ..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(sys.argv[1])
told = json.loads((folder / "export.json").read_text())
image, tokens, settings = told["image"], told["tokens"], told["caption"]
vocabulary = (folder / tokens["vocabulary"]).read_text(encoding="utf-8").split("\n")
parts = {name: onnxruntime.InferenceSession(folder / part["file"]) for name, part in told["parts"].items()}


def run(part, **inputs):
    """Run a part and name what comes out."""
    return dict(zip(told["parts"][part]["outputs"], parts[part].run(None, inputs), strict=True))


def search(states):
    """Yield (score, ids) of every text that ends; when the best beam ends, all do."""
    past, texts = np.zeros([{"rows": 1, "past": 0}.get(one, one) for one in told["cache"]], np.float32), [settings["given_ids"]]
    memory, totals, new, seen = run("memory", states=states)["memory"], np.zeros(1), np.array(texts), states.shape[1]
    for length in range(1, settings["max_length"] + 1):
        step = run("decoder", ids=new, past=past, memory=memory.repeat(len(new), 2), memory_mask=np.ones((len(new), seen), bool))
        scores = step["logits"].astype(np.float64) - step["logits"].max(1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        if length <= settings["min_length"]:
            scores[:, tokens["end"]] = -1e20
        every = (scores + totals[:, None]).ravel()
        best = np.argsort(-every, kind="stable")[: settings["num_beams"]]
        rows, words = np.divmod(best, scores.shape[1])
        texts, totals = [[*texts[row], word] for row, word in zip(rows, words, strict=True)], every[best]
        over = words[0] == tokens["end"] or length == settings["max_length"]
        ended = [(score / (5 + length) ** 0.6, text) for score, text in zip(totals, texts, strict=True)]
        yield from (one for one in ended if over or one[1][-1] == tokens["end"])
        if over:
            return
        new, past = words[:, None], step["present"][:, :, rows]


def caption(path):
    """Return the caption of a picture."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB").resize((image["size"],) * 2, Image.BICUBIC)
    pixels = (np.asarray(photo, np.float32) / 255 - np.float32(image["mean"])) / np.float32(image["std"])
    states = run("vision", pixels=pixels.transpose(2, 0, 1)[None])["states"]
    if (ids := np.array([settings["instruction_ids"]])).size:  # the decoder sees the picture and the instruction, fused
        fused = run("fusion", vision=states, text=run("text", ids=ids, mask=ids >= 0)["states"], mask=ids >= 0)
        states = np.concatenate([fused["vision_fused"], fused["text_fused"]], axis=1)
    text = " ".join(vocabulary[one] for one in max(search(states), key=lambda one: one[0])[1]).replace(" ##", "").strip()
    for spaced, tidy in tokens["tidied"]:
        text = text.replace(spaced, tidy)
    return text.split(settings["behind"])[-1].strip() if settings["behind"] else text.strip()


print(*(f"{name}: {caption(name)}" for name in sys.argv[2:]), sep="\n")
