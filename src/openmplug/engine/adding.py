"""An evaluation's folder made a result that is kept: its score, its controls, and the commands that lead there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.config import did_you_mean, read_yaml
from openmplug.data.readers.files import read_json
from openmplug.engine.catalog import list_recipes
from openmplug.engine.recipe import check_recipe, load_recipe
from openmplug.engine.results import Control, Measured, Part, read_results
from openmplug.engine.results_page import section_files, section_name
from openmplug.errors import DataError, UsageError

IN_HUNDREDTHS = " x 100"  # what recipes write behind a metric that papers print times 100
UNITS = {"vqa": "questions", "caption": "pictures", "retrieval": "pictures"}
KEPT = ("section", "order", "unit", "metric")
"""What a newer result of a recipe takes from the one it replaces."""

# Settings of a training that a reader of its command need not know.
_UNSAID = re.compile(r"description|paper\b.*|data\.(root|workers|on_error)|run\.(device|threads|log_every|save_every.*|curves|validate.*)")


def measure(
    evaluation: Path,
    folder: Path,
    controls: Mapping[str, Path] | None = None,
    recipe: str | None = None,
    section: str | None = None,
    metric: str | None = None,
    minutes: float | None = None,
    retrained: Mapping[str, Path] | None = None,
) -> tuple[Path, Measured]:
    """Make a result of what ``openmplug evaluate`` wrote.

    Args:
        evaluation: Folder with ``metrics.json``.
        folder: Of the kept results; an earlier one of the same recipe is replaced, and its section and words are taken over.
        controls: Name -> folder of an evaluation of the same model and split that should score lower.
        recipe: Name of the recipe, if the evaluation does not say.
        section: Of the page; None takes the earlier result's, else the only section with results that there is.
        metric: A key of the evaluation's metrics; None takes the one the recipe names.
        minutes: Of training; None reads the log of the run that the model comes from.
        retrained: Name -> folder of an evaluation, with the same recipe, of a model trained with less in sight (one frame, no pictures).

    Returns:
        The file to write, and its content.

    Raises:
        UsageError: If the recipe, the section or the metric is unknown.
        DataError: If a folder holds no evaluation, or a control is of another model or split.
    """
    facts = _read(evaluation)
    name = recipe or facts.get("recipe")
    if name not in list_recipes():
        hint = did_you_mean(str(name), list_recipes())
        raise UsageError(
            f"'{evaluation}' was evaluated with {f'recipe {name!r}' if name else 'an unnamed recipe'}{hint}; give --recipe NAME"
        )
    earlier = read_results(folder)[0]
    stem = str(name).replace("/", ".")
    before = earlier[stem].model_dump(include=set(KEPT)) if stem in earlier else {}
    key, words, factor = _metric(str(name), facts, metric)
    scores = facts["metrics"]
    value = round(factor * scores[key], 6)
    beside = {label: _control(place, facts, key, ("model_hash", "split", "count")) for label, place in (controls or {}).items()}
    beside |= {label: _control(place, facts, key, ("recipe", "split", "count")) for label, place in (retrained or {}).items()}
    found = [Control(name="majority", value=round(factor * scores[f"majority_{key}"], 6))] if f"majority_{key}" in scores else []
    found += [Control(name=label, value=round(factor * other[key], 6)) for label, other in beside.items()]
    run = _run(Path(facts["model"]))
    kept = {"unit": UNITS.get(facts["task"], "records"), "metric": words, **before}
    kept["section"] = section or before.get("section") or _only_section(folder)
    _check_section(folder, kept["section"])
    taken = ("split", "count", "model_hash", "date", "commit", "hardware", "threads", "precision")
    result = Measured(
        recipe=str(name),
        value=value,
        controls=found,
        parts=_parts(key, factor, facts, beside),
        minutes=minutes if minutes is not None else _minutes(run),
        commands=[*_training(str(name), run), _evaluating(str(name), facts, run)],
        **{field: facts[field] for field in taken if field in facts},
        **kept,
    )
    return folder / f"{stem}.json", result


def _read(evaluation: Path) -> dict[str, Any]:
    path = evaluation / "metrics.json"
    if not path.is_file():
        raise DataError(f"'{evaluation}' has no metrics.json; give the folder that openmplug evaluate wrote to")
    facts: dict[str, Any] = read_json(path, dict)
    missing = [name for name in ("task", "split", "count", "metrics", "model", "model_hash") if name not in facts]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; it is not what openmplug evaluate writes")
    return facts


def _metric(recipe: str, facts: Mapping[str, Any], wanted: str | None) -> tuple[str, str, float]:
    """Return the metric's key, its words, and what to multiply by so that it is in the unit of the recipe's number."""
    named = str((load_recipe(recipe).paper or {}).get("metric", ""))
    key = wanted or named.removesuffix(IN_HUNDREDTHS)
    scores = facts["metrics"]
    if key not in scores:
        what = f"no metric '{key}'{did_you_mean(key, scores)}" if key else "no metric named by the recipe"
        raise UsageError(f"{what} in the evaluation of '{recipe}'; give --metric, one of {', '.join(scores)}")
    hundredfold = named == key + IN_HUNDREDTHS
    return key, named if hundredfold else key, 100.0 if hundredfold else 1.0


def _control(place: Path, facts: Mapping[str, Any], key: str, shared: Sequence[str]) -> dict[str, float]:
    """Return a control's metrics, ``key`` among them, if it agrees with the evaluation in all that is ``shared``."""
    other = _read(place)
    for field in shared:
        ours, theirs = facts.get(field), other.get(field)
        if ours != theirs:
            raise DataError(f"control '{place}' has {field} {theirs!r:.20}, the evaluation {ours!r:.20}; evaluate the same on both")
    scores: dict[str, float] = other["metrics"]
    if key not in scores:
        raise DataError(f"control '{place}' has no metric '{key}', only {', '.join(scores)}; evaluate the same on both")
    return scores


def _parts(key: str, factor: float, facts: Mapping[str, Any], controls: Mapping[str, Mapping[str, float]]) -> list[Part]:
    """Return the score of each kind of record, where ``settings.score_by`` asked for kinds: of the metric, or of one that equals it."""
    if not (facts.get("settings") or {}).get("score_by"):
        return []
    scores = facts["metrics"]
    # Question answering names the kinds of the metric that its settings choose "accuracy".
    equal = [name for name in (key, *scores) if scores[name] == scores[key]]
    key = next((name for name in equal if any(other.startswith(f"{name}_") for other in scores)), key)
    kinds = [name.removeprefix(f"{key}_") for name in facts["metrics"] if name.startswith(f"{key}_")]
    return [
        Part(
            name=kind,
            value=round(factor * facts["metrics"][f"{key}_{kind}"], 6),
            controls=[
                Control(name=label, value=round(factor * other[f"{key}_{kind}"], 6))
                for label, other in controls.items()
                if f"{key}_{kind}" in other
            ],
        )
        for kind in kinds
    ]


def _only_section(folder: Path) -> str:
    sections = _sections(folder)
    if len(sections) != 1:
        raise UsageError(f"the recipe has no earlier result, so its section is not known; give --section, one of {', '.join(sections)}")
    return sections[0]


def _check_section(folder: Path, name: str) -> None:
    sections = _sections(folder)
    if name not in sections:
        raise UsageError(f"no section '{name}' with results in {folder}{did_you_mean(name, sections)}; one of {', '.join(sections)}")


def _sections(folder: Path) -> list[str]:
    return [section_name(path) for path in section_files(folder) if "<!-- results " in path.read_text(encoding="utf-8")]


# -------------------------------------------------------------------------------------------------------------- the run


def _run(model: Path) -> Path:
    return model.parent if model.name.startswith("checkpoint-") else model


def _minutes(run: Path) -> float | None:
    """Return how long a run took, by the last line of its log; None where it is not there."""
    log = run / "metrics.jsonl"
    if not log.is_file():
        return None
    seconds = [json.loads(line).get("seconds") for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return max((round(one / 60, 1) for one in seconds if one is not None), default=None)


def _training(recipe: str, run: Path) -> list[str]:
    """Return the training's command: the recipe, and every setting in which the run differs from it."""
    if not (run / "recipe.yaml").is_file():
        return []
    ours, shipped = (_flat(one.model_dump(mode="json")) for one in (check_recipe(read_yaml(run / "recipe.yaml")), load_recipe(recipe)))
    changed = [f"{key}={_plain(value)}" for key, value in ours.items() if value != shipped.get(key) and not _UNSAID.fullmatch(key)]
    return [_line("train", recipe, "data.root=DIR", *changed, "--output", f"runs/{run.name}")]


def _evaluating(recipe: str, facts: Mapping[str, Any], run: Path) -> str:
    given = [_without_places(setting) for setting in facts.get("overrides", ()) if not setting.startswith("data.root=")]
    said = [setting for setting in given if not _UNSAID.fullmatch(setting.partition("=")[0])]
    return _line("evaluate", recipe, "--model", f"runs/{run.name}", "data.root=DIR", *said, "--output", f"runs/{run.name}/{facts['split']}")


def _line(*words: str) -> str:
    return " ".join(["openmplug", *(f"'{word}'" if re.search(r"[\[\]{}\s]", word) else word for word in words)])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return _without_places(value)
    if isinstance(value, list) and any(isinstance(one, str) for one in value):
        value = [_without_places(one) if isinstance(one, str) else one for one in value]
    return json.dumps(value, ensure_ascii=False)


def _without_places(text: str) -> str:
    """Leave the last part of every absolute path: where somebody's files lie is nobody else's concern."""
    return re.sub(r"(?<![\w.])/(?:[^/\s\"',\]]+/)*([^/\s\"',\]]+)", r"DIR/\1", text)


def parse_controls(given: Sequence[str]) -> dict[str, Path]:
    """Split ``NAME=FOLDER`` settings.

    Raises:
        UsageError: If one has no ``=``.
    """
    pairs = [one.partition("=") for one in given]
    for name, sign, place in pairs:
        if not (name and sign and place):
            raise UsageError(f"control '{name}{sign}{place}' is not NAME=FOLDER, such as 'pictures shuffled=runs/x/blind'")
    return {name: Path(place) for name, _, place in pairs}
