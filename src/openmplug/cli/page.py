"""The quickstart's page: one HTML file, pictures inside, readable on a phone, with a screen reader and in the dark.

Examples are drawn at random, not chosen for success.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from openmplug.engine.html import definitions, document, verdict

Record = dict[str, Any]


def read_predictions(folder: Path) -> list[Record]:
    """Read ``predictions.jsonl`` of an evaluation."""
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Pictures:
    """The dev pictures of one task as data addresses."""

    def __init__(self, folder: Path) -> None:
        from openmplug.data.images import open_images

        self._source = open_images(folder, "dev")

    def tag(self, name: str, words: str) -> str:
        """Return an ``img`` element.

        Args:
            name: Of the picture.
            words: What to say of it to people who do not see it.
        """
        data = base64.b64encode(self._source.read(name)).decode("ascii")
        return f'<img src="data:image/png;base64,{data}" width="96" height="96" alt="{escape(words)}">'


def question_cards(
    seeing: Sequence[Record], blind: Mapping[str, Record], pictures: Pictures, alt: Mapping[str, str], most: int = 12
) -> str:
    """Show questions of every kind: picture, question, right answer, the model's, the blind control's."""
    kinds: dict[str, list[Record]] = {}
    for record in random.Random(0).sample(list(seeing), len(seeing)):
        kinds.setdefault(str(record.get("kind", "")), []).append(record)
    chosen = [records[turn] for turn in range(most) for _, records in sorted(kinds.items()) if turn < len(records)][:most]
    cards = []
    for record in chosen:
        reference, other = record["references"][0], blind[record["id"]]["text"]
        entries = [
            ("Question", escape(record["question"]), "asked"),
            ("Right answer", escape(reference), ""),
            ("The model says", verdict(record["text"] == reference, record["text"]), ""),
            ("Blind, it says", f'<span class="soft">{escape(other)}</span>', ""),
        ]
        cards.append(f'<li class="card">{pictures.tag(record["image"], alt.get(record["image"], ""))}{definitions(entries)}</li>')
    return f'<ul class="cards">{"".join(cards)}</ul>'


def caption_cards(seeing: Sequence[Record], pictures: Pictures, most: int = 9) -> str:
    """Show pictures with the model's caption and one of a person's."""
    cards = []
    for record in random.Random(1).sample(list(seeing), min(most, len(seeing))):
        entries = [
            ("The model writes", verdict(record["text"] in record["references"], record["text"]), "asked"),
            ("A right caption", escape(record["references"][0]), ""),
        ]
        cards.append(f'<li class="card">{pictures.tag(record["image"], record["references"][0])}{definitions(entries)}</li>')
    return f'<ul class="cards">{"".join(cards)}</ul>'


def search_cards(seeing: Sequence[Record], pictures: Pictures, alt: Mapping[str, str], most: int = 6) -> str:
    """Show texts that were searched for, the picture that was found first, and where the right one came."""
    cards = []
    for record in random.Random(2).sample(list(seeing), min(most, len(seeing))):
        query, found, rank = record["references"][0], record["best_images"][0], record["image_ranks"][0]
        place = "found first" if rank == 0 else f"came {rank + 1} of {len(seeing)}"
        both = (
            f"<figure>{pictures.tag(found, alt.get(found, ''))}<figcaption>found first</figcaption></figure>"
            f"<figure>{pictures.tag(record['image'], query)}<figcaption>meant</figcaption></figure>"
        )
        entries = definitions([("Searched for", escape(query), "asked"), ("The right picture", verdict(rank == 0, place), "")])
        cards.append(f'<li class="card tall">{entries}<div class="pair">{both}</div></li>')
    return f'<ul class="cards">{"".join(cards)}</ul>'


def shown(metric: str, value: float) -> str:
    """Return a score as people read it: CIDEr as a number, everything else in percent."""
    return f"{value:.2f}" if metric == "cider" else f"{value:.1f} %"


def score_table(labels: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Show each score beside its blind control, with bars."""
    rows = []
    for task, found in results.items():
        top = max(found["value"], found["blind"], 1e-9) if found["metric"] == "cider" else 100.0
        cells = ""
        for key, style in (("value", "bar"), ("blind", "bar blind")):
            width = min(100.0, 100 * found[key] / top)
            cells += f'<td class="number">{shown(found["metric"], found[key])}<span class="{style}" style="width:{width:.0f}%"></span></td>'
        rows.append(f'<tr><th scope="row">{escape(labels[task])}</th>{cells}</tr>')
    head = '<th scope="col">measured</th><th scope="col" class="number">with the picture</th><th scope="col" class="number">blind</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def kind_table(seeing: Sequence[Record], blind: Mapping[str, Record]) -> str:
    """Show the share of right answers for each kind of question."""
    kinds: dict[str, list[tuple[bool, bool]]] = {}
    for record in seeing:
        outcome = (record["text"] in record["references"], blind[record["id"]]["text"] in record["references"])
        kinds.setdefault(str(record.get("kind", "")), []).append(outcome)
    rows = []
    for kind, outcomes in sorted(kinds.items()):
        shares = [100 * sum(outcome[side] for outcome in outcomes) / len(outcomes) for side in (0, 1)]
        cells = "".join(f'<td class="number">{share:.0f} %</td>' for share in shares)
        rows.append(f'<tr><th scope="row">{escape(kind)}</th><td class="number">{len(outcomes):,}</td>{cells}</tr>')
    names = ("asked", "with the picture", "blind")
    head = '<th scope="col">question about</th>' + "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


TRAINED_HERE = """<h1>What three small mPLUG models say</h1>
<p>They were trained on this computer a moment ago, from random weights. Every picture here shows a combination of colour and shape that
none of them met in training, such as a red circle: they know red and they know circles. Examples are drawn at random.</p>"""
SHIPPED = """<h1>What the small mPLUG-2 that comes with openmplug says</h1>
<p>One model writes, finds and answers. Every picture here shows a combination of colour and shape that it did not meet in training,
such as a red circle: it knows red and it knows circles. Examples are drawn at random. It is small, and at home among drawings like
these: photos want released weights.</p>"""


def write_page(
    path: Path,
    output: Path,
    labels: Mapping[str, str],
    results: Mapping[str, Mapping[str, Any]],
    dev_images: int,
    trained_here: bool = True,
) -> Path:
    """Write the page.

    Args:
        path: The HTML file.
        output: Folder of the quickstart: ``data/`` and one folder per task with ``evaluation/`` and ``blind/``.
        labels: Task -> what was measured.
        results: Task -> ``metric``, ``value`` and ``blind``.
        dev_images: How many pictures were searched.
        trained_here: Whether the models were trained by this quickstart; else they are the one that comes with the package.

    Returns:
        ``path``.
    """
    from openmplug.checkpoints.atomic import write_atomic

    seeing = {task: read_predictions(output / task / "evaluation") for task in labels}
    blind = {record["id"]: record for record in read_predictions(output / "vqa" / "blind")}
    pictures = Pictures(output / "data" / "vqa")
    # The pictures of a split are the same for every task, so a caption says what any of them shows.
    alt = {record["image"]: record["references"][0] for record in seeing["caption"]}
    body = f"""{TRAINED_HERE if trained_here else SHIPPED}
<h2>Scores</h2>
<p class="soft">Blind means the same model shown a wrong picture: what it still gets right, the words alone gave away.</p>
{score_table(labels, results)}
<h2>Questions</h2>
<p class="soft">The model reads the picture and the question and writes the answer.</p>
{question_cards(seeing["vqa"], blind, pictures, alt)}
<h2>Answers by kind of question</h2>
{kind_table(seeing["vqa"], blind)}
<h2>Captions</h2>
<p class="soft">The model sees the picture only. A caption counts as right here if it equals one of the two known ones, word for word.</p>
{caption_cards(seeing["caption"], pictures)}
<h2>Search</h2>
<p class="soft">The model looks for the picture that a text describes among {dev_images:,} pictures.</p>
{search_cards(seeing["retrieval"], pictures, alt)}
<footer>
<p>Next: <code>openmplug recipes</code> lists what else can be trained;
<code>openmplug train --help</code> says how, on your own data too.</p>
</footer>"""
    write_atomic(path, document("openmplug quickstart", body))
    return path
