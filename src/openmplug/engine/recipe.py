"""What a run is made of: the typed recipe, and how it is read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from openmplug.config import Settings, apply_overrides, did_you_mean, load_tree, validate
from openmplug.data.clips import VideoSettings
from openmplug.data.splits import DataSettings
from openmplug.data.transforms import ImageSettings
from openmplug.engine.catalog import find_recipe, recipes_root
from openmplug.engine.lora import LoraSettings
from openmplug.engine.optim import OptimSettings
from openmplug.errors import UsageError

if TYPE_CHECKING:
    from openmplug.models.mplug import MPLUGConfig


class TokenizerSettings(Settings):
    """Where the words come from.

    Args:
        vocab: A WordPiece ``vocab.txt``; None builds one from the texts of the training splits.
        size: Largest vocabulary that is built.
        min_count: A word seen less often is spelled out in characters.
        extend: Where ``init_from`` gives the vocabulary, put what these texts and the task need besides at its end. The weights of the
            words that were there are kept, those of new ones are drawn.
    """

    vocab: Path | None = None
    size: int = Field(8000, ge=110)
    min_count: int = Field(2, ge=1)
    extend: bool = False


class LoopSettings(Settings):
    """How a run proceeds: precision, logging, validation, saving and when to stop.

    Args:
        device: ``auto`` takes a CUDA GPU, then Apple's, then the CPU.
        precision: Autocast type; ``auto`` is bf16 on a CUDA GPU that has it and fp32 elsewhere.
        threads: Of the CPU's computing; None leaves it to torch. The smallest models are faster with one: to wake the others costs
            more than they help, several times over where something else runs (docs/log.md).
        log_every: Optimizer steps between two lines of ``metrics.jsonl``.
        validate_every: Epochs between two validations; 0 never validates.
        validate_limit: Validate on the first this many records only; None takes the whole split.
        save_every_minutes: Minutes between two saves of ``checkpoint-last``, besides the one after each epoch.
        save_every_steps: Optimizer steps between two saves of ``checkpoint-last``.
        max_steps: Stop cleanly after this many optimizer steps of the whole run; the schedule still spans ``optim.epochs``.
        max_minutes: Stop cleanly after this many minutes of this process; ``--resume`` goes on.
        evaluate_batch_size: Records per batch in evaluation; None takes the training batch size.
        gradient_checkpointing: Parts whose layers are computed again in the backward pass instead of being kept: less memory, more
            time, the same numbers. ``true`` takes every part.
        curves: Draw ``curves.png``.
        parallel: How several processes (``torchrun``) share the task: ``ddp`` each has it whole, ``fsdp`` each has a piece of every
            layer, ``hybrid`` pieces within groups and copies of the groups. ``auto`` is ``ddp``. One process has it whole in any case.
        shard_size: Processes of a group in ``hybrid``; None takes those of one machine.
        timeout_minutes: How long a process waits for the others before one of them is taken for dead.
        compile: Let ``torch.compile`` make the kernels of the layers: a minute at the start, then faster on a GPU.
        save_in_background: Go on while ``checkpoint-last`` is being written; it costs a copy of the state in the CPU's memory.
        log_ids: Write the ids of every micro-batch's samples to ``samples.jsonl``.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int | None = Field(None, ge=1)
    log_every: int = Field(50, ge=1)
    validate_every: int = Field(1, ge=0)
    validate_limit: int | None = Field(None, ge=1)
    save_every_minutes: float | None = Field(10.0, gt=0)
    save_every_steps: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    evaluate_batch_size: int | None = Field(None, ge=1)
    gradient_checkpointing: bool | tuple[Literal["vision", "text", "universal", "fusion", "decoder"], ...] = False
    curves: bool = True
    parallel: Literal["auto", "none", "ddp", "fsdp", "hybrid"] = "auto"
    shard_size: int | None = Field(None, ge=1)
    timeout_minutes: float = Field(30.0, gt=0)
    compile: bool = False
    save_in_background: bool = False
    log_ids: bool = False


class RunConfig(Settings):
    """A whole run, as a recipe states it.

    Args:
        task: A key of ``openmplug.tasks.TASKS``.
        description: One line for ``openmplug recipes``.
        model: ``name`` (``mplug-tiny`` and so on) and fields of ``MPLUGConfig`` that differ; ``vocab_size`` is set from the tokenizer.
        settings: The task's own settings.
        init_from: Folders of weights to start from (one, or several in order). Each module comes from the first folder that has it;
            modules that none has are new and listed.
        start: How parts begin that ``init_from`` gives no weights for: ``usual`` as CLIP and BERT begin, ``mimetic`` nearer to where
            training leads (``models.mimetic``), for small data sets and short runs: a vision tower like trained ones, text encoder and
            fusion as the decoder where that is loaded.
        lora: Adapters in the place of training the whole model.
        paper: The published number, for the reader; nothing is computed from it.
        seed: Of everything random in the run.
    """

    task: str
    description: str = ""
    model: dict[str, Any] = Field(default_factory=lambda: {"name": "mplug-tiny"})
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = Field(default_factory=DataSettings)
    image: ImageSettings = Field(default_factory=ImageSettings)
    video: VideoSettings = Field(default_factory=VideoSettings)
    optim: OptimSettings = Field(default_factory=OptimSettings)
    run: LoopSettings = LoopSettings()
    settings: dict[str, Any] = Field(default_factory=dict)
    init_from: tuple[Path, ...] = ()
    start: Literal["usual", "mimetic"] = "usual"
    lora: LoraSettings = LoraSettings()
    paper: dict[str, Any] | None = None
    seed: int = Field(0, ge=0)

    @field_validator("init_from", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, str | Path) else value


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, apply ``a.b=c`` overrides and check everything that can be checked before anything is built.

    Args:
        name_or_path: Name of a shipped recipe, or path of a YAML file.
        overrides: ``optim.lr=1e-4`` and so on, applied in order.

    Raises:
        UsageError: Unknown recipe, unknown or ill-typed setting, or settings that contradict each other.
    """
    tree = load_tree(find_recipe(name_or_path), base=recipes_root())
    return check_recipe(apply_overrides(tree, list(overrides)))


def check_recipe(tree: Mapping[str, Any]) -> RunConfig:
    """Validate a recipe's tree, its task's settings and its model's included.

    ``image.size`` follows ``model.image_size``: one number, said once.

    Raises:
        UsageError: Unknown or ill-typed setting, unknown task, or settings that contradict each other.
    """
    # Imported here: tasks import every model, and listing recipes needs none.
    from openmplug.tasks import TASKS

    config = validate(RunConfig, tree)
    if config.task not in TASKS:
        raise UsageError(f"unknown task '{config.task}'{did_you_mean(config.task, TASKS)} (one of {', '.join(sorted(TASKS))})")
    validate(TASKS[config.task].Settings, config.settings, where="settings")
    if not isinstance(config.model.get("name"), str):
        raise UsageError("setting 'model.name' is missing; name a size, for example model.name=mplug-tiny")
    model = model_config(config.model)
    if config.lora.rank and config.tokenizer.extend:
        raise UsageError("tokenizer.extend gives new words, which lora.rank would leave as they are drawn; set one of them")
    if config.lora.rank and not config.init_from:
        raise UsageError(f"lora.rank={config.lora.rank} needs weights to adapt: give init_from=DIR, a trained folder, or set lora.rank=0")
    stated = "size" in dict(tree.get("image") or {})
    if stated and config.image.size != model.image_size:
        raise UsageError(
            f"image.size={config.image.size} contradicts model.image_size={model.image_size}; set the latter alone, image.size follows"
        )
    return config.model_copy(update={"image": config.image.model_copy(update={"size": model.image_size})})


def model_config(fields: Mapping[str, Any]) -> MPLUGConfig:
    """Return the model configuration that a recipe's ``model`` section means.

    Raises:
        UsageError: Unknown size, unknown or ill-typed field, or fields that contradict each other.
    """
    from openmplug.models.families import named_config

    size = named_config(fields["name"])
    return validate(type(size), {**size.model_dump(), **fields}, where="model")
