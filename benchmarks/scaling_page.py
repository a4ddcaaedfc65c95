"""The words and tables of docs/scaling.md; ``scaling.py`` writes them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flops
import step_memory
import step_plan
import step_traffic
from step_memory import Kept, memory
from step_plan import Plan, passes, step_flops
from step_traffic import SHARING, Machine, expected, sharers, traffic

from openmplug.models.families import named_config
from openmplug.models.mplug import MPLUGConfig

Counts = tuple[int, int]


class Case(NamedTuple):
    """A model and what one GPU's step of it sees."""

    name: str
    config: MPLUGConfig
    plan: Plan
    counts: Counts

    @property
    def work(self) -> int:
        """Model FLOPs of a step."""
        return step_flops(self.config, self.plan)


# Batches of one GPU: the released pre-training recipes' for mPLUG; mPLUG-2 published none, so pictures as mPLUG's, clips by their tokens.
CASES = (
    ("mplug-base", 256, 0),
    ("mplug-large", 128, 0),
    ("mplug2-base", 256, 0),
    ("mplug2-large", 128, 0),
    ("mplug2-base", 32, 8),
    ("mplug2-large", 16, 8),
)
PICTURES, EPOCHS = 14e6, 30  # of the paper's pre-training


def formulas(module: object) -> str:
    """Take the indented formulas and what is said about them from a module's docstring, without its first paragraph."""
    return (module.__doc__ or "").split("\n\n", 1)[1].strip("\n")


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells: str) -> str:
    return row(*cells) + "\n|" + "---|" * len(cells)


def paragraph(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), 140, break_long_words=False, break_on_hyphens=False)


def cases(count: Callable[[MPLUGConfig, Plan], Counts]) -> list[Case]:
    found = []
    for size, batch, frames in CASES:
        config, plan = named_config(size), Plan(batch, frames=frames)
        found.append(Case(f"{size}, clips of {frames}" if frames else size, config, plan, count(config, plan)))
    return found


def operations_table(found: Sequence[Case]) -> str:
    """GFLOP of one picture or clip by pass, forward and backward together."""
    listed = [passes(case.config, case.plan) for case in found]
    rows = [
        row(first.what, *(f"{(one[number].forward + one[number].backward) / 1e9:,.1f}" for one in listed))
        for number, first in enumerate(listed[0])
    ]
    totals = row("**all**", *(f"**{case.work / case.plan.batch / 1e9:,.0f}**" for case in found))
    return "\n".join([head("GFLOP, forward + backward", *(case.name for case in found)), *rows, totals])


def memory_table(found: Sequence[Case]) -> str:
    """GB of one GPU by purpose."""
    names = [name for name in memory(found[0].config, found[0].plan, Kept(), 1, found[0].counts) if name != "activations"]
    columns = ("model", "batch", "M parameters", *names, "activations", "**all**", "recomputed", "**all**", "sharing among 8: **all**")
    rows = []
    for case in found:
        sizes = (case.config, case.plan)
        parts = memory(*sizes, Kept(), 1, case.counts)
        again = memory(*sizes, Kept(recompute=True), 1, case.counts)
        shared = memory(*sizes, Kept(recompute=True), 8, case.counts)
        numbers = [parts[name] for name in (*names, "activations")] + [sum(parts.values()), again["activations"]]
        numbers += [sum(again.values()), sum(shared.values())]
        rows.append(row(case.name, case.plan.batch, f"{case.counts[0] / 1e6:,.0f}", *(f"{number / 1e9:,.1f}" for number in numbers)))
    return "\n".join([head(*columns), *rows])


def traffic_table(found: Sequence[Case], gpus: Sequence[int], machine: Machine) -> str:
    """GB each GPU sends in a step, and the time that takes."""
    columns = ("model", "GPUs", "sharing", "weights", "gradients", "features", "communication ms", "compute ms")
    rows = []
    for case in found:
        for count in gpus:
            for sharing in SHARING:
                moved = traffic(case.config, case.plan, case.counts, count, sharers(sharing, count, machine))
                step = expected(case.config, case.plan, case.counts, case.work, count, sharing, machine)
                gradients = moved["reduction among sharers"] + moved["reduction among groups"]
                sent = [moved["gather of weights"], gradients, moved["features"]]
                shown = [f"{number / 1e9:.2f}" for number in sent]
                rows.append(row(case.name, count, sharing, *shown, f"{1e3 * step.communication:,.0f}", f"{1e3 * step.compute:,.0f}"))
    return "\n".join([head(*columns), *rows])


def throughput_table(found: Sequence[Case], gpus: Sequence[int], machine: Machine) -> str:
    """Pictures or clips per second, all communication hidden and none of it, weights on every GPU."""
    rows = []
    for case in found:
        for count in gpus:
            step = expected(case.config, case.plan, case.counts, case.work, count, "DDP", machine)
            hours = "" if case.plan.frames else f"{PICTURES * EPOCHS / step.open / 3600:,.1f}"
            rows.append(row(case.name, count, f"{case.plan.batch * count:,}", f"{step.hidden:,.0f}", f"{step.open:,.0f}", hours))
    columns = ("model", "GPUs", "batch of all", "per second, hidden", "per second, not hidden", "hours of 14 M pictures, 30 epochs")
    return "\n".join([head(*columns), *rows])


def page(gpus: Sequence[int], machine: Machine, measured: str | None, count: Callable[[MPLUGConfig, Plan], Counts]) -> str:
    """Write the page.

    Args:
        gpus: How many, each a column of the plan.
        machine: What they do.
        measured: The table of ``--check``; None where nothing was measured.
        count: Counts parameters that learn, and the twin's.
    """
    found = cases(count)
    slow = max(28 * case.counts[0] + 12 * case.counts[1] for case in found) / machine.memory_bandwidth
    checked = measured or "Nothing was measured yet: `python benchmarks/scaling.py --check --json docs/scaling_check.json`."
    one, most = Plan(1), CASES[0][1]
    # Log-probabilities and targets of both directions, of one GPU's batch against every GPU's and the queue.
    alone, together = (f"{16 * (most * all_gpus + one.queue) * most / 1e9:.1f}" for all_gpus in (1, max(gpus)))
    assumed = paragraph(
        f"Assumed: H200-class GPUs, {machine.flops / 1e12:.0f} TFLOP/s dense bf16, {machine.memory_bytes / 1e9:.0f} GB at",
        f"{machine.memory_bandwidth / 1e12:.1f} TB/s; nodes of {machine.node}, {2 * machine.nvlink / 1e9:.0f} GB/s NVLink (both directions",
        f"together), 8 x 400 Gb/s between nodes; **{machine.mfu:.0%} model FLOPs utilisation** of a GPU by itself and",
        f"{machine.efficiency:.0%} of the links' rate. Batches are a GPU's: 256 and 128 are the released recipes' for mPLUG base and",
        f"large; mPLUG-2 published none. Texts have {one.text} tokens, of which {one.hidden} are hidden and {one.said} are said behind",
        f"a prefix; the queue holds {one.queue:,} features of each kind; clips have 8 frames. GB are 10^9 bytes.",
        "Other values: `python benchmarks/scaling.py --help`.",
    )
    limits = paragraph(
        "The batch of all GPUs grows with them; how many there were is not in the released recipes. Beyond some thousands the learning",
        f"rate and the warm-up have to follow. The queue must hold at least a batch of all GPUs: {one.queue:,} features end at",
        f"{one.queue // most} GPUs x {most}. The features of all GPUs are keys beside the queue's: the log-probabilities and targets of",
        f"mplug-base then take {together} GB on {max(gpus)} GPUs instead of {alone}, and no operations that show. With the batch of all",
        "held, smaller batches of a GPU lower the utilisation before communication does.",
    )
    return f"""# Pre-training at scale: the plan

Made by `python benchmarks/scaling.py --page docs/scaling.md`; change the script, not this page. **Computed, not measured**, but for the
last section. Operations equal what torch counts on the modules, parameters are counted on the modules, and the activations' formulas are
held against what autograd keeps (`tests/benchmarks`), those of recomputation are not.

{assumed}

## The forwards of a step

{formulas(step_plan)}

{operations_table(found)}

{formulas(flops)}

## Memory of a GPU, GB

{memory_table(found)}

"recomputed" are the activations with gradient checkpointing of every stack. The largest terms that are no layer: the decoder keeps keys,
values and, under autocast, two bf16 copies of [vision; prefix] for each of its layers.

{formulas(step_memory)}

## Bytes moved

{traffic_table(found, gpus, machine)}

DDP has everything on every GPU, FSDP shares weights, gradients, moments and twin among all, hybrid inside a node. Latency is not in it:
with hundreds of GPUs it is what keeps sharing among all from being free. The optimizer and the twin's move read and write memory for at
most {1e3 * slow:.0f} ms of these steps.

{formulas(step_traffic)}

## Expected throughput

Weights on every GPU (DDP): all models fit, with recomputation also at half the memory. Pictures or clips per second of all GPUs.

{throughput_table(found, gpus, machine)}

{limits}

## Checked

{checked}

Predicted memory is a sum of everything at once, though gradients come while activations go; what a call needs only while it runs, and
what a process holds besides its tensors, is not in it. The time is that of this plain step without loader. On a GPU:
`python benchmarks/scaling.py --check --sizes mplug-base mplug2-base --batch 64 --device cuda`, a minute.
"""
