"""Bytes a pre-training step moves between GPUs, and the time it should take, by formula.

With P parameters that learn, P_t of the twin, N GPUs, S of them sharing weights (1, all, or the 8 of a node), M = N / S such groups. Each
GPU sends and receives, in bytes:

    gather of weights         (S - 1) / S (2 * 2 P + 2 P_t)      bf16; student forward and backward, twin forward, once each
    reduction of gradients    (S - 1) / S 4 P                    reduce-scatter among those that share, fp32
                            + 2 (M - 1) / M 4 P / S              all-reduce of what a GPU then has among the groups
    features                  (N - 1) B (3 * 2 * 4 E + 8)        student forward and backward, twin; both modalities; pictures' numbers

    seconds = bytes / (bandwidth * efficiency)

Inside a node a GPU sends at NVLink's rate in one direction, half of the 900 GB/s that are advertised. A ring over several nodes passes
through the node's eight network cards, and each of its eight GPUs moves an eighth: 400 GB/s in all. Per step on the GPU itself the
optimizer reads and writes 28 P bytes (weights, gradients, both moments), the twin's move 12 P_t.

    compute seconds = model FLOPs / (peak * MFU)
    step            between max(compute, communication), all of it hidden, and their sum, none of it hidden
"""

from __future__ import annotations

from dataclasses import dataclass

from step_plan import Plan

from openmplug.models.mplug import MPLUGConfig


@dataclass(frozen=True)
class Machine:
    """What a cluster of H200-class GPUs does.

    Args:
        flops: Dense bf16, of one GPU, per second.
        memory_bytes: Of one GPU.
        memory_bandwidth: Of it, bytes per second.
        node: GPUs of a node.
        nvlink: Bytes per second that a GPU sends inside the node (and receives as many).
        network: Bytes per second that a node sends.
        efficiency: Part of both that collectives reach; assumed.
        mfu: Model FLOPs utilisation of one GPU by itself; assumed.
    """

    flops: float = 989e12
    memory_bytes: float = 141e9
    memory_bandwidth: float = 4.8e12
    node: int = 8
    nvlink: float = 450e9
    network: float = 8 * 400e9 / 8
    efficiency: float = 0.8
    mfu: float = 0.45


SHARING = ("DDP", "hybrid", "FSDP")


def sharers(sharing: str, gpus: int, machine: Machine) -> int:
    """How many GPUs share one set of weights.

    Raises:
        ValueError: If the way of sharing is unknown.
    """
    groups = {"DDP": 1, "hybrid": min(gpus, machine.node), "FSDP": gpus}
    if sharing not in groups:
        raise ValueError(f"unknown way of sharing {sharing!r}; one of {', '.join(SHARING)}")
    return groups[sharing]


def traffic(config: MPLUGConfig, plan: Plan, counts: tuple[int, int], gpus: int, shared_by: int) -> dict[str, float]:
    """Bytes one GPU sends in a step, by purpose."""
    student, twin = counts
    groups = gpus // shared_by
    inside, outside = (shared_by - 1) / shared_by, 2 * (groups - 1) / groups
    return {
        "gather of weights": inside * (2 * 2 * student + 2 * twin),
        "reduction among sharers": inside * 4 * student,
        "reduction among groups": outside * 4 * student / shared_by,
        "features": (gpus - 1) * plan.batch * (3 * 2 * 4 * config.embed_dim + 8),
    }


def communication_seconds(moved: dict[str, float], gpus: int, shared_by: int, machine: Machine) -> float:
    """Seconds of a step's collectives, one after the other."""
    near, far = (rate * machine.efficiency for rate in (machine.nvlink, machine.network))
    among_sharers = moved["gather of weights"] + moved["reduction among sharers"]
    # Where the groups are the nodes, all eight GPUs of a node reduce different parts through the same cards.
    together = machine.node if 1 < shared_by <= machine.node < gpus else 1
    return (
        among_sharers / (near if shared_by <= machine.node else far)
        + moved["reduction among groups"] * together / (near if gpus <= machine.node else far)
        + moved["features"] / (near if gpus <= machine.node else far)
    )


@dataclass(frozen=True)
class Step:
    """Seconds of a step, and pictures or clips per second of all GPUs: with all communication hidden, and with none."""

    compute: float
    communication: float
    hidden: float
    open: float


def expected(config: MPLUGConfig, plan: Plan, counts: tuple[int, int], work: float, gpus: int, sharing: str, machine: Machine) -> Step:
    """Say what a step should take.

    Args:
        config: Sizes.
        plan: Of one GPU.
        counts: Parameters that learn, and of the twin.
        work: Model FLOPs of one GPU's step.
        gpus: All of them.
        sharing: One of ``SHARING``.
        machine: What the GPUs do.
    """
    shared_by = sharers(sharing, gpus, machine)
    compute = work / (machine.flops * machine.mfu)
    communication = communication_seconds(traffic(config, plan, counts, gpus, shared_by), gpus, shared_by, machine)
    rows = plan.batch * gpus
    return Step(compute, communication, rows / max(compute, communication), rows / (compute + communication))
