"""Golden facts without a model: words, schedules, optimizer groups, key renaming, boxes, position tables, frame indices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from openmplug.checkpoints.originals import final_names, original_keymap
from openmplug.data.frames import middle_indices, uniform_indices
from openmplug.data.text import clean_caption, clean_question, ocr_words, question_with_context, unique_answers
from openmplug.data.tokenizer import Tokenizer
from openmplug.engine.optim import MPLUG2Schedule, OriginalCosine, decays, in_vision
from openmplug.models.mplug import MODULES, MPLUGConfig
from openmplug.models.vision import resize_positions
from openmplug.objectives.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou
from parity.golden import Ledger, as_float32

END = "[SEP]"


def run_extras(folder: Path) -> Ledger:
    """Compare everything in the folder; a file or a kind nobody knows is a fault."""
    ledger = Ledger()
    known = {"vocab.txt", "README.md"}
    vocab = folder / "vocab.txt"
    tokenizer = Tokenizer.from_vocab_file(vocab) if vocab.is_file() else None
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            for kind, entries in json.loads(path.read_text()).items():
                if kind not in KINDS:
                    ledger.faults.append(f"{path.name}: unknown kind {kind!r}; write a comparison for it in tests/parity/extras.py")
                    continue
                KINDS[kind](Notes(ledger, f"{path.stem}.{kind}"), entries, tokenizer)
        elif path.suffix == ".safetensors":
            _tensors(Notes(ledger, path.stem), as_float32(load_file(path)))
        elif path.name not in known:
            ledger.faults.append(f"{path.name}: a file nobody knows")
    return ledger


class Notes:
    """The ledger, for values that are equal or not and for numbers that are close or not."""

    def __init__(self, ledger: Ledger, prefix: str) -> None:
        self.ledger = ledger
        self.prefix = prefix

    def equal(self, name: str, ours: Any, theirs: Any) -> None:
        """Compare anything exactly."""
        self.ledger.note(f"{self.prefix}.{name}", float(ours != theirs), ours == theirs, f"{ours!r}, expected {theirs!r}")

    def close(self, name: str, ours: Tensor, theirs: Tensor, atol: float = 1e-5, rtol: float = 1e-5) -> None:
        """Compare tensors."""
        if ours.shape != theirs.shape:
            self.ledger.note(f"{self.prefix}.{name}", float("inf"), False, f"shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
            return
        error = float((ours - theirs).abs().max())
        ok = torch.allclose(ours, theirs, atol=atol, rtol=rtol)
        self.ledger.note(f"{self.prefix}.{name}", error, ok, f"largest difference {error:.3g}")


def _need(tokenizer: Tokenizer | None) -> Tokenizer:
    assert tokenizer is not None, "the folder has words but no vocab.txt"
    return tokenizer


def _text(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    words = _need(tokenizer)
    for entry in entries:
        raw = entry["raw"]
        for key, value in entry.items():
            name = f"{raw[:20]!r}.{key}"
            if key == "raw":
                continue
            if key.startswith("pre_question_"):
                ours: Any = clean_question(raw, int(key.rsplit("_", 1)[1]))
            elif key.startswith("pre_caption_"):
                ours = clean_caption(raw, int(key.rsplit("_", 1)[1]))
            elif key == "ids":
                ours = words.encode(raw)
            elif key == "ids_eos":
                ours = words.encode(raw + END)
            elif key.startswith("ids_trunc"):
                ours = words.encode(raw, max_length=int(key.removeprefix("ids_trunc")))
            elif key == "ids_mid_sep":
                # A question, the separator, and objects, whose words are the case's own.
                objects = words.decode(value[len(words.encode(raw)) + 1 :])
                ours = words.encode(f"{raw} {END} {objects}")
            elif key == "decode":
                ours = words.decode(words.encode(raw + END))
            else:
                notes.ledger.faults.append(f"{notes.prefix}: unknown field {key!r}")
                continue
            notes.equal(name, ours, value)


def _decode(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    for entry in entries:
        notes.equal(str(entry["ids"]), _need(tokenizer).decode(entry["ids"]), entry["text"])


_ANNOTATIONS: dict[int, list[dict[str, Any]]] = {}


def _vqa_annotations(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    _ANNOTATIONS[id(notes.ledger)] = entries  # the examples that follow refer to them by number


def _vqa_examples(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    annotations = _ANNOTATIONS.pop(id(notes.ledger))
    for entry in entries:
        record, name = annotations[entry["i"]], f"{entry['i']}.ocr{entry['add_ocr']:d}.object{entry['add_object']:d}"
        question = question_with_context(
            record["question"], ocr_words(record), record.get("object_label"), add_ocr=entry["add_ocr"], add_object=entry["add_object"]
        )
        answers, weights = unique_answers(record)
        notes.equal(f"{name}.question", question, entry["question"])
        notes.equal(f"{name}.answers", [answer + END for answer in answers], entry["answers"])
        notes.equal(f"{name}.weights", list(weights), entry["weights"])
        notes.equal(f"{name}.ids", _need(tokenizer).encode(question), entry["question_ids"])


def _grounding_text(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    for entry in entries:
        tokens = _need(tokenizer).encode_phrases([entry["phrase"]], length=entry["max_query_len"])
        notes.equal(f"{entry['phrase'][:20]!r}.ids", tokens.ids[0].tolist(), entry["ids"])
        notes.equal(f"{entry['phrase'][:20]!r}.mask", tokens.mask[0].long().tolist(), entry["mask"])


def _schedules(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    for number, entry in enumerate(entries):
        config = entry["config"]
        ends = {"warmup": config["warmup_epochs"], "warmup_lr": config["warmup_lr"], "min_lr": config["min_lr"]}
        if config["sched"] == "cosine":
            curve = OriginalCosine(duration=config["epochs"], **ends)
            pairs = [(t, [curve.lr(t, base) for base in entry["base_lrs"]], lrs) for t, *lrs in entry["trace_t_lr"]]
        else:
            per_epoch = entry["steps_per_epoch"]
            curve = OriginalCosine(duration=config["epochs"] * per_epoch - config["warmup_epochs"], **ends)
            schedule = MPLUG2Schedule(curve, per_epoch, sawtooth="caption" in entry["script"])
            pairs = [
                ((e, i), [curve.lr(schedule.time_after(e, i), base) for base in entry["base_lrs"]], lrs)
                for e, i, *lrs in entry["trace_epoch_iter_lrs"]
            ]
        for where, ours, theirs in pairs:
            notes.close(f"{number}.{where}", torch.tensor(ours).double(), torch.tensor(theirs).double(), atol=1e-12, rtol=1e-6)


def _groups(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    lrs = [group["lr"] for group in entries]
    keymap = original_keymap(MPLUGConfig(text_layers=1, connected_layers=()), 0, MODULES)
    for group in entries:
        notes.equal("betas", group["betas"], [0.9, 0.999])
        notes.equal("eps", group["eps"], 1e-8)
        for name in group["names"]:
            first, _, rest = name.replace("{i}", "0").partition(".")
            student = f"{first.removesuffix('_m')}.{rest}" if rest else first
            found = keymap.to_ours(student)
            if not found:
                assert keymap.reason_ignored(student) is not None, f"{name}: neither mapped nor known to be unused"
                continue
            expected = (group["lr"] == min(lrs), group["weight_decay"] > 0)
            notes.equal(name, (in_vision(found[0]), decays(found[0])), expected)


def _rename(notes: Notes, entry: dict[str, Any], tokenizer: Tokenizer | None) -> None:
    given: dict[str, Any] = entry["in_keys_to_value"]
    ours = final_names(given)
    for key, value in entry["out_keys_to_value"].items():
        if key in given:
            # Where the file holds the final name as well as the old one, the final one stays; the original overwrites it in
            # dictionary order and keeps whichever came last.
            notes.equal(key, ours[key] in (value, given[key]), True)
        else:
            notes.equal(key, ours[key], value)
    # What the original deletes by mistake must still be here.
    for key in given:
        if key.startswith("fusion_encoder") and not key.startswith(("fusion_encoder.fusion.", "fusion_encoder.bert.")):
            notes.equal(f"kept.{key}", ours.get(key), given[key])
    notes.equal("no_old_names", [key for key in ours if ".fusion." in key or (".bert." in key and "decode" not in key)], [])


def _uniform(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    for entry in entries:
        name = f"{entry['num_frm']}of{entry['vlen']}"
        notes.equal(name, uniform_indices(entry["num_frm"], entry["vlen"], literal=True), entry["idx"])


def _middle(notes: Notes, entries: list[dict[str, Any]], tokenizer: Tokenizer | None) -> None:
    for entry in entries:
        name = f"{entry['num_frames']}of{entry['vlen']}"
        notes.equal(name, middle_indices(entry["num_frames"], entry["vlen"]), entry["idx"])


KINDS: dict[str, Callable[[Notes, Any, Tokenizer | None], None]] = {
    "text": _text,
    "decode": _decode,
    "vqa_annotations": _vqa_annotations,
    "vqa_examples": _vqa_examples,
    "grounding_text": _grounding_text,
    "schedules": _schedules,
    "two_optimizer_groups": _groups,
    "checkpoint_rename": _rename,
    "mplug_uniform_indices": _uniform,
    "frame_indices_middle": _middle,
}


def _tensors(notes: Notes, stored: dict[str, Tensor]) -> None:
    """Compare position tables and boxes; each stored tensor is an input that is read or an output that is compared."""
    unread = set(stored)
    for name in [name for name in stored if name.startswith("posembed.") and name.endswith(".in")]:
        output = name.removesuffix(".in") + ".out"
        notes.close(output, resize_positions(stored[name], len(stored[output])), stored[output])
        unread -= {name, output}
    if "box.pred_cxcywh" in stored:
        predicted, true = stored["box.pred_cxcywh"], stored["box.gt_cxcywh"]
        corners, true_corners = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
        # Evaluation clamps the predicted corners to the picture first.
        iou = pairwise_iou(corners.clamp(0, 1), true_corners, eps=0.0)[0].diagonal()
        ours = {
            "box.xyxy": corners,
            "box.giou": pairwise_giou(corners, true_corners),
            "box.eval_iou": iou,
            "box.eval_acc": (iou >= 0.5).float().mean(),
        }
        unread -= {"box.pred_cxcywh", "box.gt_cxcywh"}
        for name, value in ours.items():
            if name in stored:
                notes.close(name, value, stored[name], atol=2e-5)
                unread.discard(name)
    notes.ledger.faults += [f"{name}: stored, but nothing compared it" for name in sorted(unread)]
