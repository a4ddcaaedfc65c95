"""How each family of golden cases is run through our models and tasks."""

from __future__ import annotations

import ast
from collections.abc import Callable

import torch
from torch import Tensor

from openmplug.batch import Batch, Sample, Tokens
from openmplug.metrics.retrieval import ranks_from_scores, retrieval_scores
from openmplug.models.decoder import DecoderMemory
from openmplug.models.generation import Hypothesis, beam_search, rescore
from openmplug.models.momentum import MomentumTwin
from openmplug.models.mplug2 import MPLUG2
from openmplug.models.network import Network
from openmplug.models.ranking import rank_answers
from openmplug.models.video import encode_clips
from openmplug.objectives.boxes import box_tokens, grounding_loss, tokens_to_boxes
from openmplug.objectives.itm import Negatives, matching_loss
from openmplug.objectives.language import soft_token_losses, text_labels, token_losses
from openmplug.tasks.base import Progress
from openmplug.tasks.captioning import CaptioningTask, CaptionSettings
from openmplug.tasks.decoding import target_log_probs
from openmplug.tasks.reranking import Encoded, image_to_text, text_to_image
from openmplug.tasks.retrieval import RetrievalSettings, RetrievalTask
from openmplug.tasks.vqa import VQASettings, VQATask
from parity.golden import Case
from parity.plain import plain_beam_search, plain_rank


def samples(count: int) -> list[Sample]:
    """Make records without words for tensors that have no text."""
    return [Sample(id=str(number)) for number in range(count)]


def caption_settings(case: Case) -> CaptionSettings:
    """Take prompt and lengths from the case; the golden models have few positions."""
    return CaptionSettings(**{key: case.settings[key] for key in ("prompt", "min_length", "max_length")})


# --------------------------------------------------------------------------------------------------------------- generation


def _compare_hypotheses(case: Case, prefix: str, found: list[list[Hypothesis]]) -> None:
    """Compare ids (padded with -1), lengths and scores; entries that the original's table leaves empty must be empty here."""
    ids, lengths, scores = (case.io[f"{prefix}_{part}"] for part in ("ids", "lens", "scores"))
    ours_ids, ours_lengths, ours_scores = torch.full_like(ids, -1), torch.zeros_like(lengths), torch.zeros_like(scores)
    for item, hypotheses in enumerate(found):
        for place, one in enumerate(hypotheses[: ids.shape[1]]):
            ours_ids[item, place, : len(one.ids)] = torch.tensor(one.ids[: ids.shape[2]])
            ours_lengths[item, place] = len(one.ids)
            ours_scores[item, place] = one.score
    case.same(f"{prefix}_ids", ours_ids)
    case.same(f"{prefix}_lens", ours_lengths)
    case.same(f"{prefix}_scores", ours_scores)


def _generations(
    case: Case, model: Network, memory: DecoderMemory, states: Tensor, mask: Tensor | None, prompt: Tensor | None = None
) -> None:
    """Run every stored generation with the cache, and again without; the two must agree token by token."""
    names = [name.removeprefix("out.").removesuffix("_ids") for name in case.io if name.startswith("out.gen") and name.endswith("_ids")]
    for name in names:
        settings = {key: case.settings[key] for key in ("beam_size", "min_length", "max_length")}
        description = case.config["tensors"][f"out.{name}_ids"]["what"]
        if "{" in description:
            settings = ast.literal_eval(description[description.index("{") : description.index("}") + 1])
        beams, shortest, longest = settings["beam_size"], settings["min_length"], settings["max_length"]
        # The table's second axis is how many hypotheses the original was asked for.
        wanted = case.io[f"out.{name}_ids"].shape[1]
        found = beam_search(
            model.decoder, memory, num_beams=beams, min_length=shortest, max_length=longest, prompt=prompt, num_return=wanted
        )
        _compare_hypotheses(case, f"out.{name}", found)
        plain = plain_beam_search(model.decoder, states, mask, beams, shortest, longest, prompt, wanted)
        if [[one.ids for one in item] for item in found] != [[ids for ids, _ in item] for item in plain]:
            case.ledger.faults.append(f"{name}: the cached and the plain search wrote different ids")


def _ranking(case: Case, model: Network, memory: DecoderMemory, states: Tensor, mask: Tensor | None) -> None:
    ids, real, k = case.get("in.answer_list_ids"), case.mask("in.answer_list_mask"), case.settings["k_test"]
    ranking = rank_answers(model.decoder, memory, ids, real, k)
    case.same("out.rank_topk_ids", ranking.indices)
    case.same("out.rank_topk_probs", ranking.probabilities)
    indices, probabilities = plain_rank(model.decoder, states, mask, ids, real, k)
    if not torch.equal(indices, ranking.indices) or not torch.allclose(probabilities, ranking.probabilities, atol=1e-5):
        case.ledger.faults.append("rank: the shared and the plain ranking differ")


# ---------------------------------------------------------------------------------------------------------------- families


def pixels_of(case: Case) -> Tensor:
    """Read pictures, or the clips of mPLUG-2, whose original has the frames behind the channels."""
    return case.get("in.video").transpose(1, 2) if "in.video" in case.io else case.get("in.image")


def _vision(case: Case, model: Network, images: Tensor) -> Tensor:
    """Compare everything from the tower to what the rest of the model sees, which is returned."""
    tokens = model.encode_images(images)
    stages: dict[str, Callable[[], Tensor]] = {"out.image_embeds": lambda: tokens}
    if isinstance(model, MPLUG2):
        raw = encode_clips(model.vision, model.temporal, images)
        projected = model.vision_projection(raw) if hasattr(model, "vision_projection") else raw
        stages |= {
            "out.video_embeds_raw": lambda: raw,
            "out.video_embeds_proj": lambda: projected,
            "out.v_module": lambda: model.universal.read_vision(projected),
            "out.video_embeds": lambda: tokens,
        }
    else:
        stages["out.image_embeds_raw"] = lambda: model.vision(images)
    for name, stage in stages.items():
        if name in case.io:
            case.same(name, stage())
    return tokens


def vqa(case: Case) -> None:
    """Question answering: activations, loss, gradients, soft labels, ranking, generation, momentum."""
    modules = case.selection(VQATask.model_modules)
    task = VQATask(case.model(modules), case.tokenizer, VQASettings())
    model, keymap = task.model, case.keymap(modules)
    question, question_mask = case.get("in.question_ids"), case.mask("in.question_mask")
    answers = Tokens(case.get("in.answer_ids"), case.mask("in.answer_mask"))
    counts, images = case.get("in.k"), pixels_of(case)
    vision = _vision(case, model, images)
    text = model.encode_text(question, question_mask)
    fused = model.fuse(vision, text, question_mask)
    case.same("out.text_embeds", text)
    case.same("out.fusion_image", fused.vision)
    case.same("out.fusion_text", fused.text)
    states = torch.cat([fused.vision, fused.text], dim=1)
    mask = torch.cat([torch.ones(vision.shape[:2], dtype=torch.bool), question_mask], dim=1)
    memory = model.decoder_memory(fused, question_mask)
    owner = torch.arange(len(images)).repeat_interleave(counts)
    labels = text_labels(answers.ids, answers.mask)
    logits = model.decoder(answers.ids, answers.mask, memory.rows(owner))
    case.same("out.decoder_logits", logits)
    case.same("out.answer_loss", target_log_probs(model.decoder, memory.rows(owner), answers, labels))
    if "in.soft_labels" in case.io:
        soft = soft_token_losses(logits, labels, case.get("in.soft_labels"), dim=1).sum(dim=1)
        case.same("out.decoder_loss_alpha0.4", 0.6 * token_losses(logits, labels).sum(dim=1) + 0.4 * soft)
    batch = Batch(
        samples(len(images)),
        images=images,
        text=Tokens(question, question_mask),
        targets=answers,
        target_weights=case.get("in.weights"),
        targets_per_item=counts,
    )
    losses = task(batch)
    case.same("out.loss", losses.total)
    losses.total.backward()
    case.gradients(model, keymap)
    with torch.no_grad():
        _ranking(case, model, memory, states, mask)
        _generations(case, model, memory, states, mask)
    _distilled(case, batch, owner)


def _distilled(case: Case, batch: Batch, owner: Tensor) -> None:
    """Run the same step with the twin: equal loss and gradients, a teacher that has moved, a fusion twin that has not."""
    modules = case.selection(VQATask.model_modules)
    task = VQATask(case.model(modules), case.tokenizer, VQASettings(distill=True), training=True).eval()
    assert task.twin is not None and batch.targets is not None and batch.text is not None and batch.images is not None
    case.load_twin(task.twin.model)
    before = {key: value.clone() for key, value in task.twin.model.state_dict().items()}
    task.begin_step(Progress())
    losses = task(batch)
    case.same("out.distill.loss", losses.total)
    losses.total.backward()
    if "grad_norms_distill" in case.config:
        case.gradients(task.model, case.keymap(modules), "grad_norms_distill", tensors=False)
    twin = task.twin.model
    with torch.no_grad():
        vision = twin.encode_images(batch.images)
        text = twin.encode_text(batch.text.ids, batch.text.mask)
        fused = twin.fuse(vision, text, batch.text.mask)
        memory = twin.decoder_memory(fused, batch.text.mask).rows(owner)
        logits = twin.decoder(batch.targets.ids, batch.targets.mask, memory)[:, :-1]
        if "out.distill.image_embeds_m_raw" in case.io:
            case.same("out.distill.image_embeds_m_raw", twin.vision(batch.images))
        stages = {
            "video_embeds_m": vision,
            "text_embeds_m": text,
            "fusion_image_m": fused.vision,
            "fusion_text_m": fused.text,
            "logits_m": logits,
        }
        for name, tensor in stages.items():
            if f"out.distill.{name}" in case.io:
                case.same(f"out.distill.{name}", tensor)
    _after_step(case, task.twin, before, "state_changed_by_distill_forward", queue={})


def _after_step(case: Case, twin: MomentumTwin, before: dict[str, Tensor], listed: str, queue: dict[str, Tensor]) -> None:
    """Compare every stored ``after_step`` tensor, and which tensors the step changed at all."""
    keymap = case.keymap(twin.model.modules_built)
    old, now = keymap.restore(before), keymap.restore(twin.model.state_dict())
    for name in [name for name in case.io if name.startswith("after_step.")]:
        key = name.removeprefix("after_step.")
        if key in queue:
            case.same(name, queue[key])
            continue
        student_key = _student(key)
        if student_key in now:
            case.same(name, now[student_key])
        else:
            # A twin the original stores and never updates, and that we do not build: its value must be what it was.
            assert keymap.reason_ignored(student_key) is not None, key
            case.same(name, case.weights[key])
    changed = {key for key in now if not torch.equal(now[key], old[key]) and key != "temp"}
    expected = {_student(key) for key in case.config[listed] if key not in queue}
    ignored = {key for key in expected if keymap.reason_ignored(key) is not None}
    if changed != expected - ignored:
        case.ledger.faults.append(f"tensors changed by the step differ: {sorted(changed ^ (expected - ignored))[:5]}")


def _student(key: str) -> str:
    """Name the student's tensor of a momentum copy's."""
    first, _, rest = key.partition(".")
    return f"{first.removesuffix('_m')}.{rest}"


def caption(case: Case) -> None:
    """Captioning: activations, loss, gradients, generation, and the scores self-critical training differentiates."""
    modules = case.selection(CaptioningTask.model_modules)
    task = CaptioningTask(case.model(modules), case.tokenizer, caption_settings(case))
    model, keymap = task.model, case.keymap(modules)
    for name in ("in.question_ids", "in.question_mask"):
        if name in case.io:
            case.unused(name, "object labels; the original captioner never reads them")
    images, targets = pixels_of(case), Tokens(case.get("in.caption_ids"), case.mask("in.caption_mask"))
    vision = _vision(case, model, images)
    memory = model.decoder.project_memory(vision)
    case.same("out.decoder_logits", model.decoder(targets.ids, targets.mask, memory))
    losses = task(Batch(samples(len(images)), images=images, targets=targets))
    case.same("out.loss", losses.total)
    losses.total.backward()
    case.gradients(model, keymap)
    with torch.no_grad():
        _generations(case, model, memory, vision, None)
    if "out.scst_ids" in case.io:
        _self_critical(case, model, keymap, images)


def _self_critical(case: Case, model: Network, keymap, images: Tensor) -> None:  # type: ignore[no-untyped-def]
    settings = case.settings
    model.zero_grad()
    memory = model.caption_memory(images)
    count = case.io["out.scst_ids"].shape[1]
    found = beam_search(
        model.decoder,
        memory,
        num_beams=settings["beam_size"],
        min_length=settings["min_length"],
        max_length=settings["max_length"],
        num_return=count,
    )
    _compare_hypotheses(case, "out.scst", found)
    longest = max(len(one.ids) for item in found for one in item)
    ids = torch.zeros(len(found), count, longest, dtype=torch.int64)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for item, hypotheses in enumerate(found):
        for place, one in enumerate(hypotheses):
            ids[item, place, : len(one.ids)], mask[item, place, : len(one.ids)] = torch.tensor(one.ids), True
    scores = rescore(model.decoder, memory, ids.flatten(0, 1), mask.flatten(0, 1)).view(len(found), count)
    case.same("out.scst_scores", scores)
    scores.mean().backward()
    for name in [name for name in case.io if name.startswith("out.scst_grad.")]:
        parameter = dict(model.named_parameters())[keymap.to_ours(name.removeprefix("out.scst_grad."))[0]]
        assert parameter.grad is not None
        case.same(name, parameter.grad)


def clip_caption(case: Case) -> None:
    """mPLUG-2's captioning: as of pictures; the prompt is left out of the loss, and generation begins without it."""
    prompt_ids = case.get("in.prompt_ids").tolist()
    if prompt_ids != case.tokenizer.encode(case.settings["prompt"]):
        case.ledger.faults.append("in.prompt_ids: our tokenizer encodes the prompt differently")
    caption(case)


def video_caption(case: Case) -> None:
    """VATEX captioning: frames one after the other are the memory; the prompt loses its last word."""
    task = CaptioningTask(case.model(CaptioningTask.model_modules), case.tokenizer, caption_settings(case))
    model, video = task.model, case.get("in.video")
    targets = Tokens(case.get("in.caption_ids"), case.mask("in.caption_mask"))
    case.same("out.frame_embeds_raw", model.vision(video.flatten(0, 1)))
    vision = model.encode_images(video)
    memory = model.decoder.project_memory(vision)
    case.same("out.decoder_logits", model.decoder(targets.ids, targets.mask, memory))
    case.same("out.loss", task(Batch(samples(len(video)), images=video, targets=targets)).total)
    prompt_ids = case.get("in.prompt_ids").tolist()
    if prompt_ids != case.tokenizer.encode(case.settings["prompt"]):
        case.ledger.faults.append("in.prompt_ids: our tokenizer encodes the prompt differently")
    begin = torch.tensor([prompt_ids[:-1] or prompt_ids]).expand(len(video), -1)
    with torch.no_grad():
        _generations(case, model, memory, vision, None, begin)


def retrieval(case: Case) -> None:
    """Retrieval: features, both losses with the stored negatives, queues, momentum, the evaluation script's matrices."""
    settings = case.settings
    task_settings = RetrievalSettings(queue_size=settings["queue_size"], alpha=float(case.get("in.alpha")), k_test=settings["k_test"])
    task = RetrievalTask(case.model(RetrievalTask.model_modules), case.tokenizer, task_settings, training=True).eval()
    assert task.twin is not None and task.queue is not None
    model, keymap = task.model, case.keymap(RetrievalTask.model_modules)
    case.load_twin(task.twin.model)
    stored = split_queue(case.weights)
    task.queue.load_state_dict(stored)
    before = {key: value.clone() for key, value in task.twin.model.state_dict().items()}
    images, ids, mask, index = case.get("in.image"), case.get("in.text_ids"), case.mask("in.text_mask"), case.get("in.idx")
    size = len(images)
    drawn = case.get("in.neg_samples")
    negatives = Negatives(drawn[:size], drawn[size:])

    # The original's order: the momentum update comes after the student's features, before the twin's.
    task.begin_step(Progress(epoch=1))
    weights: list[Tensor] = []
    losses = _with_negatives(task, Batch(samples(size), images=images, text=Tokens(ids, mask), image_index=index), negatives, weights)
    case.same("out.loss_ita", losses.parts["itc"])
    case.same("out.loss_itm", losses.parts["itm"])
    case.same("out.neg_weights", torch.cat(weights))
    losses.total.backward()
    case.gradients(model, keymap)
    task.end_step()
    queue = {
        "image_queue": task.queue.vision.T,
        "text_queue": task.queue.text.T,
        "idx_queue": task.queue.index[None],
        "queue_ptr": task.queue.pointer,
    }
    _after_step(case, task.twin, before, "state_changed_by_forward", queue)
    if not {"image_queue", "text_queue", "idx_queue", "queue_ptr"} >= {
        key for key in case.config["state_changed_by_forward"] if key in queue
    }:
        case.ledger.faults.append("the queue the original writes is not the one we write")
    with torch.no_grad():
        twin = task.twin.model
        case.same("out.image_feat_m", twin.contrastive.vision_features(twin.encode_images(images)))
        case.same("out.text_feat_m", twin.contrastive.text_features(twin.encode_text(ids, mask)))
        vision, text = _vision(case, model, images), model.encode_text(ids, mask)
        vision_features, text_features = model.contrastive.vision_features(vision), model.contrastive.text_features(text)
        case.same("out.text_embeds", text)
        case.same("out.image_feat", vision_features)
        case.same("out.text_feat", text_features)
        positive = model.fuse(vision, text, mask)
        case.same("out.fusion_image_pos", positive.vision)
        case.same("out.fusion_text_pos", positive.text)
        negative = model.fuse(
            torch.cat([vision[negatives.images], vision]),
            torch.cat([text, text[negatives.texts]]),
            torch.cat([mask, mask[negatives.texts]]),
        )
        case.same("out.fusion_text_neg", negative.text)
        logits = task.matching_logits(vision, text, mask, negatives)
        case.same("out.itm_logits", logits)
        assert torch.isclose(matching_loss(logits), losses.parts["itm"], rtol=1e-5)
        split = Encoded(vision, vision_features, text, mask, text_features)
        _matrices(case, model, split, settings["k_test"])


def split_queue(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the original's queue buffers into ours."""
    return {
        "vision": weights["image_queue"].T,
        "text": weights["text_queue"].T,
        "index": weights["idx_queue"][0],
        "pointer": weights["queue_ptr"],
    }


def _with_negatives(task: RetrievalTask, batch: Batch, negatives: Negatives, weights: list[Tensor]):  # type: ignore[no-untyped-def]
    """Run the task's forward with the stored draw in place of a random one, and keep the weights it was offered."""
    import openmplug.tasks.alignment as module

    def stored_draw(offered, generator=None):  # type: ignore[no-untyped-def]
        weights.extend([offered.images_for_texts, offered.texts_for_images])
        return negatives

    original = module.sample_negatives
    module.sample_negatives = stored_draw
    try:
        return task(batch)
    finally:
        module.sample_negatives = original


def _matrices(case: Case, model: Network, split: Encoded, k: int) -> None:
    """Compare the evaluation: all pair scores, similarities, the script's matrices and its recalls."""
    size = len(split.vision)
    everything = torch.cat(list(image_to_text(model, split, k=len(split.text), pairs_per_call=2 * len(split.text))))
    case.same("out.eval_itm_scores", everything, atol=case.tolerance["activations_atol"], rtol=case.tolerance["activations_rtol"])
    case.same("out.eval_sims", split.vision_features @ split.text_features.T)
    i2t = torch.cat(list(image_to_text(model, split, k)))
    t2i = torch.cat(list(text_to_image(model, split, k)))
    if "out.eval_script_i2t" in case.io:
        case.same("out.eval_script_i2t", i2t)
        case.same("out.eval_script_t2i", t2i)
    _recalls(case, i2t, t2i, size, {"txt": "txt", "img": "img"})


def _recalls(case: Case, i2t: Tensor, t2i: Tensor, size: int, names: dict[str, str]) -> None:
    if case.config.get("itm_eval_metrics") is None:
        # The original's evaluation crashes at this size, so it made no numbers.
        case.ledger.unread.discard("itm_eval_metrics")
        return
    positives = [[number] for number in range(size)]
    ours = retrieval_scores(ranks_from_scores(i2t.numpy(), positives), ranks_from_scores(t2i.numpy(), positives))
    for key, value in case.config["itm_eval_metrics"].items():
        side, _, rest = key.partition("_")
        name = f"{names[side]}_{rest}" if side in names else key
        name = name.replace("mdR", "median_rank")
        case.scalar("itm_eval_metrics", ours[name], value, atol=1e-3)


def grounding(case: Case) -> None:
    """Grounding: activations, the weighted loss with its broadcast, gradients, the greedy box."""
    modules = ("vision", "text", "fusion", "decoder")
    model, keymap = case.model((*modules,)), case.keymap((*modules,))
    images, ids, mask, boxes = case.get("in.image"), case.get("in.text_ids"), case.mask("in.text_mask"), case.get("in.box_cxcywh")
    weights = case.weights
    prefix, first = int(weights["prefix_ids"].flatten()[0]), int(weights["target_ids"].flatten()[0])
    allowed = weights["bbox_prob_mask"].flatten()
    vision = _vision(case, model, images)
    text = model.encode_text(ids, mask)
    fused = model.fuse(vision, text, mask)
    case.same("out.text_embeds", text)
    case.same("out.fusion_image", fused.vision)
    case.same("out.fusion_text", fused.text)
    memory = model.decoder_memory(fused, mask)
    targets = box_tokens(boxes, first)
    case.same("out.target_ids", targets)
    inputs = torch.cat([torch.full((len(images), 1), prefix), targets], dim=1)
    logits = model.decoder(inputs, torch.ones_like(inputs, dtype=torch.bool), memory) + allowed
    case.same("out.decoder_logits", logits, atol=2e-3, rtol=case.tolerance["activations_rtol"])
    losses = token_losses(logits, inputs)
    case.same("out.token_ce", losses)
    predicted = tokens_to_boxes(logits[:, :-1].argmax(dim=-1), first)
    total = grounding_loss(losses, predicted, boxes)
    case.same("out.loss_seq", total)
    total.backward()
    case.gradients(model, keymap)
    with torch.no_grad():
        state = model.decoder.start(memory, len(images), 4)
        new, chosen = inputs[:, :1], []
        for _ in range(4):
            new = (model.decoder.logits(model.decoder.step(new, state)[:, -1:]) + allowed).argmax(dim=-1)
            chosen.append(new)
        case.same("out.pred_box", tokens_to_boxes(torch.cat(chosen, dim=1), first), atol=0.0)


def video_retrieval(case: Case) -> None:
    """The video-retrieval script: frames flattened, class tokens averaged, matching logit plus similarity."""
    model = case.model(RetrievalTask.model_modules)
    video, ids, mask = case.get("in.video"), case.get("in.text_ids"), case.mask("in.text_mask")
    with torch.no_grad():
        vision, text = model.encode_images(video), model.encode_text(ids, mask)
        case.same("out.frame_embeds", vision.unflatten(1, (video.shape[1], -1)).flatten(0, 1))
        vision_features = model.contrastive.vision_features(vision, frames=video.shape[1])
        case.same("out.video_embed", vision_features)
        split = Encoded(vision, vision_features, text, mask, model.contrastive.text_features(text))
        v2t = torch.cat(list(image_to_text(model, split, case.settings["k_test"], add_similarity=True)))
        t2v = torch.cat(list(text_to_image(model, split, case.settings["k_test"], add_similarity=True)))
    case.same("out.v2t", v2t)
    case.same("out.t2v", t2v)
    _recalls(case, v2t, t2v, len(video), {"txt": "txt", "vid": "img"})


def video_question(case: Case) -> None:
    """The video-QA script: frames flattened, answers ranked."""
    model = case.model(VQATask.model_modules)
    video, ids, mask = case.get("in.video"), case.get("in.question_ids"), case.mask("in.question_mask")
    with torch.no_grad():
        fused = model.fuse(model.encode_images(video), model.encode_text(ids, mask), mask)
        states = torch.cat([fused.vision, fused.text], dim=1)
        visible = torch.cat([torch.ones(fused.vision.shape[:2], dtype=torch.bool), mask], dim=1)
        case.same("out.states", states)
        case.same("out.states_mask", visible.long())
        _ranking(case, model, model.decoder_memory(fused, mask), states, visible)
    # The script's accuracy is over synthetic ids without strings: it can only be 0.
    case.scalar("stats", 0.0, float(case.config["stats"]["acc"]), atol=0.0)


FAMILIES: dict[str, Callable[[Case], None]] = {
    "mplug_vqa": vqa,
    "mplug_caption": caption,
    "mplug_videocap": video_caption,
    "mplug_retrieval": retrieval,
    "mplug_grounding": grounding,
    "mplug_video_retrieval": video_retrieval,
    "mplug_videoqa": video_question,
    "mplug2_videoqa": vqa,
    "mplug2_videocap": clip_caption,
}
