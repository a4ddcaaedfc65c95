"""The rules of the text-to-image benchmarks, against tables worked out by hand."""

from __future__ import annotations

import pytest

from openmplug.metrics.judging.bootstrap import bootstrap_interval
from openmplug.metrics.judging.dependencies import MissingParent, yes_scores, zero_dependents
from openmplug.metrics.judging.dpg import PUBLISHED, STRICT, GradedPicture, score_pictures
from openmplug.metrics.judging.dsg import benchmark_items, by_category, category_of, item_score, question_scores
from openmplug.metrics.judging.tifa import score_captions


@pytest.mark.parametrize(
    ("answers", "parents", "expected", "in_place"),
    [
        # No dependency: nothing is zeroed.
        ("yny", {1: [0], 2: [0], 3: [0]}, "101", "101"),
        # A child of a failed parent.
        ("nyy", {1: [0], 2: [1], 3: [0]}, "001", "001"),
        # Several parents: one failed one is enough, whichever it is.
        ("yny", {1: [0], 2: [0], 3: [1, 2]}, "100", "100"),
        ("nyy", {1: [0], 2: [0], 3: [1, 2]}, "010", "010"),
        # The parent's own score decides, before any zeroing: 3 keeps its point. In place it loses it.
        ("nyy", {1: [0], 2: [1], 3: [2]}, "001", "000"),
        # In place depends on the order of the rows: 1 is looked at before its parent 2 is zeroed.
        ("yyn", {1: [2], 2: [3], 3: [0]}, "100", "100"),
        # A 0 among real parents says nothing.
        ("ny", {1: [0], 2: [0, 1]}, "00", "00"),
    ],
)
def test_dependents_of_failed_questions_score_nothing(answers: str, parents: dict[int, list[int]], expected: str, in_place: str) -> None:
    scores = yes_scores({number: {"y": "yes", "n": "no"}[letter] for number, letter in enumerate(answers, start=1)})
    wanted = {number: float(figure) for number, figure in enumerate(expected, start=1)}
    assert zero_dependents(scores, parents) == wanted
    assert zero_dependents(scores, parents, in_place=True) == {number: float(figure) for number, figure in enumerate(in_place, start=1)}


def test_only_the_word_yes_counts() -> None:
    said = ["yes", "Yes", "yes.", " yes", "yes yes", "y", "no", ""]
    assert list(yes_scores(dict(enumerate(said))).values()) == [1, 0, 0, 0, 0, 0, 0, 0]


def test_a_parent_that_was_not_asked() -> None:
    with pytest.raises(MissingParent, match="proposition 2 depends on 7, which has no answer"):
        zero_dependents({1: 1.0, 2: 1.0}, {2: [1, 7]})
    # After a failed parent the rest is not looked at, as in the public scorers.
    assert zero_dependents({1: 0.0, 2: 1.0}, {2: [1, 7]}) == {1: 0.0, 2: 0.0}
    # Dependencies of questions that have no score themselves say nothing.
    assert zero_dependents({2: 1.0}, {9: [8]}) == {2: 1.0}


@pytest.mark.parametrize(
    ("item", "category"),
    [
        ("tifa160_0", "tifa"),
        ("stanford_paragraph_1", "paragraph"),
        ("localized_narratives_9", "paragraph"),
        ("countbench_3", "count"),
        ("vrd_5", "relation"),
        ("diffusiondb_2", "real_user"),
        ("midjourney_8", "real_user"),
        ("posescript_4", "pose"),
        ("whoops_5", "defying"),
        ("drawtext_7", "text"),
        ("partiprompts97", None),
    ],
)
def test_category_of_an_item(item: str, category: str | None) -> None:
    assert category_of(item) == category


def test_dsg_items_and_categories() -> None:
    scores = question_scores({1: "no", 2: "yes", 3: "yes", 4: "yes"}, {1: [0], 2: [1], 3: [0], 4: [0]})
    assert item_score(scores) == 0.5
    assert item_score({}) == 0.0
    assert by_category({"vrd_1": 1.0, "whoops_1": 0.5, "vrd_2": 0.0, "own": 0.25}) == {
        "relation": [1.0, 0.0],
        "defying": [0.5],
        "all": [1.0, 0.5, 0.0, 0.25],
    }


def test_which_items_a_model_is_measured_on() -> None:
    items = ["vrd_1", "vrd_2", "whoops_1"]
    # Run on both categories: the item without answers counts.
    assert benchmark_items(["vrd_2", "whoops_1"], items) == items
    # Run on one category only: it is measured on what it was run on.
    assert benchmark_items(["vrd_2"], items) == ["vrd_2"]


def picture(*tiles: str, parents: dict[int, list[int]] | None = None) -> GradedPicture:
    answers = [{number: {"y": "yes", "n": "no"}[letter] for number, letter in enumerate(tile, start=1)} for tile in tiles]
    numbers = range(1, len(tiles[0]) + 1)
    names = {1: "entity - whole", 2: "attribute - color", 3: "attribute - shape"}
    return GradedPicture(answers, parents or {number: [0] for number in numbers}, {number: names[number] for number in numbers})


def test_dpg_scores_by_both_rules() -> None:
    pictures = {
        # Tiles: 2/3 (2 and 3 depend on 1, all yes but 3), then 0 (1 is no).
        "a": picture("yyn", "nyy", parents={1: [0], 2: [1], 3: [1]}),
        # Tiles: 1, 1/2.
        "b": picture("yy", "yn"),
    }
    published, strict = score_pictures(pictures, PUBLISHED), score_pictures(pictures, STRICT)
    assert published.pictures == strict.pictures == {"a": pytest.approx(1 / 3), "b": pytest.approx(0.75)}
    # Categories: answers before zeroing, of the last tile or of all.
    assert published.level2 == {"entity - whole": [[0], [1]], "attribute - color": [[1], [0]], "attribute - shape": [[1]]}
    assert published.level1 == {"entity": [[0], [1]], "attribute": [[1, 1], [0]]}
    assert strict.level2 == {"entity - whole": [[1, 0], [1, 1]], "attribute - color": [[1, 1], [1, 0]], "attribute - shape": [[0, 1]]}
    assert strict.level1["attribute"] == [[1, 1, 0, 1], [1, 0]]


def test_dpg_keeps_the_scores_of_both_readings_of_zeroing() -> None:
    scores = score_pictures({"a": picture("nyy", parents={1: [0], 2: [1], 3: [2]})}, PUBLISHED)
    assert scores.pictures == {"a": pytest.approx(1 / 3)}
    assert scores.in_place == {"a": 0.0}


def test_dpg_and_a_parent_that_was_not_asked() -> None:
    broken = picture("yy", parents={1: [0], 2: [5]})
    scores = score_pictures({"a": broken, "b": picture("y")}, PUBLISHED)
    assert scores.pictures == {"b": 1.0}
    assert scores.failures == {"a": "proposition 2 depends on 5, which has no answer"}
    with pytest.raises(MissingParent, match="picture 'a': proposition 2 depends on 5"):
        score_pictures({"a": broken}, STRICT)


def test_tifa_is_the_mean_over_captions_not_questions() -> None:
    scores = score_captions([("a", "color", 1), ("a", "object", 1), ("a", "color", 1), ("b", "color", 0)])
    assert (scores.mean, scores.captions) == (0.5, {"a": 1.0, "b": 0.0})
    assert scores.stdev == pytest.approx(0.5**0.5)
    assert scores.accuracy_by_type() == {"color": pytest.approx(2 / 3), "object": 1.0}
    assert score_captions([("a", "color", 1)]).stdev is None
    with pytest.raises(ValueError, match="no questions"):
        score_captions([])


def test_bootstrap_interval() -> None:
    values = [[float(number % 2)] for number in range(400)]
    low, high = bootstrap_interval(values)
    # The standard error of 400 fair coins is 0.025.
    assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.025, abs=0.004), pytest.approx(0.5 + 1.96 * 0.025, abs=0.004))
    assert bootstrap_interval(values) == (low, high)


def test_the_bootstrap_draws_whole_groups() -> None:
    # Ten questions about each picture that stand or fall together tell no more than one does.
    alone = bootstrap_interval([[float(number % 2)] for number in range(40)])
    assert bootstrap_interval([[float(number % 2)] * 10 for number in range(40)]) == alone
    for groups in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="at least one group"):
            bootstrap_interval(groups)
