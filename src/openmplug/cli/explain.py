"""``openmplug explain``: where a model looks, drawn over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, Dtype, Json, Model

if TYPE_CHECKING:
    from openmplug.inference.explain.explanation import Explanation, Peak

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Pictures and videos; a folder is a video of its pictures.")]
Text = Annotated[str | None, typer.Option("--text", "-t", help="The sentence to match, or the question; none for a caption.")]
Target = Annotated[str | None, typer.Option("--target", help="Answer or caption to explain.", show_default="the model's own")]
TaskName = Annotated[str | None, typer.Option("--task", metavar="TASK", help="retrieval, vqa or caption.", show_default="as trained")]
Drawing = Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Picture to write; of several inputs a folder.")]
Layer = Annotated[int | None, typer.Option("--layer", min=0, help="Of the fusion: for words that are read.", show_default="the middle one")]
DecoderLayer = Annotated[
    int | None, typer.Option("--decoder-layer", min=0, help="Of the decoder: for words that are written.", show_default="the middle one")
]
Frames = Annotated[int | None, typer.Option("--frames", min=1, help="Frames to look at of a video.", show_default="as in training")]
Quantize = Annotated[str | None, typer.Option("--quantize", metavar="int8|int4", help="Store the weights in few bits.")]


def explain(
    inputs: Inputs,
    model: Model,
    output: Drawing,
    text: Text = None,
    target: Target = None,
    task: TaskName = None,
    layer: Layer = None,
    decoder_layer: DecoderLayer = None,
    frames: Frames = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    batch_size: BatchSize = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Draw where a model looks: for every word a heat map over the picture.

    A match hangs on the words of the sentence, an answer on those of the question and its own, a caption on its own.
    """
    from openmplug.errors import UsageError
    from openmplug.inference.loading import load

    files = _files(inputs, output)
    if task is not None and task not in ("retrieval", "vqa", "caption"):
        raise UsageError(f"unknown task '{task}'; retrieval (a match), vqa (an answer) and caption can be explained")
    opened = load(model, device, dtype, batch_size or 16, quantize=quantize, frames=frames)
    found = opened.explain(list(inputs), None if text is None else [text] * len(inputs), target=target, task=task, layer=layer,
                           decoder_layer=decoder_layer)  # fmt: skip
    assert isinstance(found, list)
    for one, path in zip(found, files, strict=True):
        one.save(path)
    if json_output:
        rows = zip(inputs, files, found, strict=True)
        screen.document([{"input": name, "picture": str(path), **one.document()} for name, path, one in rows])
        return
    for name, path, one in zip(inputs, files, found, strict=True):
        _show(name, path, one)


def _files(inputs: list[str], output: Path) -> list[Path]:
    """Name the picture of each input.

    Raises:
        UsageError: If one picture cannot be written there.
    """
    from openmplug.errors import UsageError

    if len(inputs) == 1 and output.suffix:
        if output.suffix.lower() != ".png":
            raise UsageError(f"--output {output} does not end in .png; the picture is written as PNG")
        return [output]
    if output.is_file() or output.suffix.lower() == ".png":
        raise UsageError(f"--output {output} is one file, and there are {len(inputs)} inputs; name a folder")
    stems = [Path(name).stem for name in inputs]
    return [output / (f"{stem}.png" if stems.count(stem) == 1 else f"{place}_{stem}.png") for place, stem in enumerate(stems)]


def _show(name: str, path: Path, one: Explanation) -> None:
    says = {"match": f"match {one.score:.1%}", "answer": f"answer: {one.output}", "caption": f"caption: {one.output}"}[one.kind]
    rows: list[tuple[Any, ...]] = [("all of it", "", _place(one.peak))]
    kinds = ["read"] * (len(one.words) - one.written) + ["written"] * one.written
    for word, kind, strength, peak in zip(one.words, kinds, one.strengths, one.peaks, strict=True):
        rows.append((word, f"{kind} {strength:.2f}", _place(peak)))
    screen.table(f"{name}: {says}", ("word", "strength", "looks at"), rows)
    screen.note(f"written: {path}")


def _place(peak: Peak | None) -> str:
    if peak is None:
        return "nowhere"
    where = f"{peak.x:.0f}, {peak.y:.0f} px"
    return where if peak.frame is None else f"{where} of frame {peak.frame}"
