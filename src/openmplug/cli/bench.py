"""``openmplug bench``: speed and memory of a model on this machine, and which type of weights is faster here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Device, Json

Named = Annotated[str, typer.Argument(metavar="MODEL", help="A named size (random weights) or a folder with a trained model.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="caption, answer, rank or match; may be given several times.")]
Type = Annotated[str | None, typer.Option("--dtype", help="fp32 or bf16; default both, where the machine has bf16.", show_default=False)]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of a CPU.", show_default="all cores")]
Quick = Annotated[bool, typer.Option("--quick", help="Less work and one repeat: seconds instead of minutes, rougher numbers.")]


def bench(
    model: Named = "mplug-base",
    only: Only = None,
    device: Device = None,
    dtype: Type = None,
    threads: Threads = None,
    quick: Quick = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Measure captions, answers, rankings and matches per second, and memory, on this machine."""
    import torch

    from openmplug.device import choose_device
    from openmplug.errors import UsageError
    from openmplug.inference import bench as work
    from openmplug.inference.loading import inference_precision

    chosen = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    possible = work.dtypes_of(chosen)
    if dtype is not None and dtype not in possible:
        raise UsageError(f"dtype '{dtype}' cannot be measured on {chosen}; choose from {', '.join(possible)}")
    opened = work.open_model(model, chosen)
    kinds = work.possible_work(opened, only or [])
    types = [dtype] if dtype else possible
    measured = work.measure(opened, kinds, types, work.QUICK if quick else work.FULL)
    speeds: list[work.Speed] = []
    with screen.Meter("measuring", len(kinds) * len(types)) as meter:
        for one in measured:
            speeds.append(one)
            meter.show(len(speeds), 0)
    default = inference_precision(None, chosen, opened.config)
    faster = work.faster_dtype(speeds) if len(types) > 1 else None
    if json_output:
        about = {"model": model, "device": str(chosen), "threads": torch.get_num_threads(), "torch": torch.__version__, "quick": quick}
        rows = [asdict(one) for one in speeds]
        screen.document({**about, "speeds": rows, "faster_dtype": faster, "default_dtype": default})
        return
    where = f"{chosen}, {torch.get_num_threads()} threads" if chosen.type == "cpu" else str(chosen)
    cells = [(one.work, one.dtype, f"{one.per_second:.3g} {one.unit}", one.seconds, _memory(one.peak_memory_mib)) for one in speeds]
    right = ("per second", "seconds a call", "peak MiB")
    screen.table(f"{model} on {where}", ("work", "weights", *right), cells, right)
    if faster is not None:
        screen.note(f"faster here: {faster}")
    screen.note(f"load(…) chooses: {default}")


def _memory(mib: float | None) -> str | None:
    return None if mib is None else f"{mib:.0f}"
