"""Time captioning of mPLUG base against BLIP base of the `transformers` library: same pictures, beams and tokens, random weights, fp32.

    python benchmarks/blip.py --threads 2 --repeat 3

BLIP is built from its configuration (nothing is downloaded) at the same picture size; ``min_length`` equals ``max_length`` on both sides,
so every caption has its full length, and both keep keys and values between steps. The two take turns; the median after a warm-up counts.
They are different models, so the captions are not compared. Sizes: both have a 12-layer vision transformer and a 12-layer decoder of
width 768 with a vocabulary of 30,522 words.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration, __version__

from openmplug.models.families import named_config
from openmplug.models.generation import beam_search
from openmplug.models.mplug import MPLUG
from openmplug.models.precision import cast_for_inference

BEAMS = 5
GOALS = {1: 1.4, 4: 1.6}


def build_blip(size: str, image_size: int) -> Any:
    """Build BLIP base, or a few-layer one for the tests."""
    config = BlipConfig()
    config.vision_config.image_size = image_size
    # The class's defaults are not the released model's: that decoder attends to pictures of width 768, with 12 heads.
    config.text_config.encoder_hidden_size = config.vision_config.hidden_size
    config.text_config.num_attention_heads = 12
    config.text_config.vocab_size = 30524
    config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.sep_token_id = 30522, 2, 102
    if size == "tiny":
        config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = 1
    return BlipForConditionalGeneration(config).eval()


def build_ours(size: str, image_size: int) -> MPLUG:
    layers = {"vision_layers": 1, "decoder_layers": 1} if size == "tiny" else {}
    model = MPLUG(named_config("mplug-base", image_size=image_size, **layers), ("vision", "decoder"))
    return cast_for_inference(model.eval(), torch.float32)


def measure(ours: MPLUG, blip: Any, batch: int, tokens: int, repeat: int) -> dict[str, float]:
    """Return the median seconds of both, from pixels to ids, and their ratio."""
    side = ours.config.image_size
    images = torch.randn(batch, 3, side, side)

    def our_captions() -> int:
        found = beam_search(ours.decoder, ours.caption_memory(images), num_beams=BEAMS, min_length=tokens, max_length=tokens)
        return min(len(item[0].ids) for item in found) - 1

    def blip_captions() -> int:
        # BLIP's generate puts its own begin token first and counts it.
        ids: Tensor = blip.generate(pixel_values=images, num_beams=BEAMS, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)
        return ids.shape[1] - 1

    sides: dict[str, Callable[[], int]] = {"ours": our_captions, "blip": blip_captions}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeat + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            written = work()
            if turn:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - start)
            if written < tokens:
                raise RuntimeError(f"{name} wrote {written} tokens instead of {tokens}; the comparison would not be fair")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {**medians, "ratio": medians["blip"] / medians["ours"]}


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each side after a warm-up; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--tokens", type=int, default=25, help="new tokens of a caption")
    parser.add_argument("--image-size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="pictures at a time")
    parser.add_argument("--size", choices=("base", "tiny"), default="base", help="tiny has one layer each: to see that it runs")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    ours, blip = build_ours(given.size, given.image_size), build_blip(given.size, given.image_size)
    sizes = {"ours": sum(p.numel() for p in ours.parameters()), "blip": sum(p.numel() for p in blip.parameters())}
    print(
        f"{given.size}, {given.image_size} x {given.image_size} pixels, beam {BEAMS}, {given.tokens} tokens, {given.threads} threads, fp32,"
        f" median of {given.repeat}, torch {torch.__version__}, transformers {__version__};"
        f" parameters: ours {sizes['ours'] / 1e6:.0f} M, BLIP {sizes['blip'] / 1e6:.0f} M"
    )
    results = {batch: measure(ours, blip, batch, given.tokens, given.repeat) for batch in given.batches}
    print("| batch | BLIP s | ours s | ratio | goal |\n|---|---|---|---|---|")
    for batch, one in results.items():
        print(f"| {batch} | {one['blip']:.3f} | {one['ours']:.3f} | {one['ratio']:.2f} | {GOALS.get(batch, '')} |")
    if given.json:
        given.json.write_text(
            json.dumps({"threads": given.threads, "tokens": given.tokens, "parameters": sizes, "batches": results}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
