"""METEOR and SPICE: what is asked of the Java programs, what is made of their answers, and what is said where they cannot run.

The programs are played by a small script, so that these tests need neither Java nor half a minute; one slow test holds METEOR to
pycocoevalcap's own wrapper.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from openmplug.errors import EnvironmentProblem
from openmplug.metrics.official import meteor, official_scores, require, spice

# Plays METEOR (a line for a line: the words in common) and SPICE (a file for a file), and writes down what it was asked.
JAVA = """#!{python}
import json, pathlib, sys
asked = pathlib.Path({asked!r}).open("a", 1)
asked.write(" ".join(sys.argv[1:]) + "\\n")
if "{trouble}":
    sys.exit("Exception: {trouble}")
if "-stdio" in sys.argv:
    assert "".join(sys.argv).count("meteor-1.5.jar") == 1
    while line := sys.stdin.readline():
        asked.write(line)
        kind, *fields = line.rstrip("\\n").split(" ||| ")
        if kind == "SCORE":
            *references, ours = [set(field.split()) for field in fields]
            print(max(len(ours & theirs) / len(ours | theirs) for theirs in references), flush=True)
        else:
            print("\\n".join(fields), sum(map(float, fields)) / len(fields), sep="\\n", flush=True)
else:
    given, found = sys.argv[sys.argv.index("-out") - 1], sys.argv[sys.argv.index("-out") + 1]
    rows = json.load(open(given))
    asked.write(json.dumps(rows) + "\\n")
    all_of = [dict(image_id=row["image_id"], scores=dict(All=dict(f=float(row["test"] in row["refs"])))) for row in rows]
    json.dump(all_of[::-1], open(found, "w"))
"""
NO_DOWNLOAD = "def get_stanford_models():\n    print('Downloading ...')\n    raise OSError('no way out')\n"


class Played:
    """A package and a Java that a test can do with as it likes."""

    def __init__(self, root: Path) -> None:
        self.asked, self.bin = root / "asked.txt", root / "bin"
        self.package = root / "site" / "pycocoevalcap"
        for folder in (self.bin, self.package / "meteor", self.package / "spice" / "lib"):
            folder.mkdir(parents=True)
        (self.package / "meteor" / "meteor.py").write_text("")
        (self.package / "spice" / "get_stanford_models.py").write_text(NO_DOWNLOAD)
        self.java()

    def java(self, trouble: str = "") -> None:
        program = self.bin / "java"
        program.write_text(JAVA.format(python=sys.executable, asked=str(self.asked), trouble=trouble))
        program.chmod(0o755)

    def parser(self) -> None:
        for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
            (self.package / "spice" / "lib" / name).touch()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    found = Played(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(found.package.parent), *sys.path])
    # A package without __init__.py, as the real one, would be looked for in every place of the path.
    (found.package / "__init__.py").touch()
    monkeypatch.setenv("PATH", str(found.bin))
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        del sys.modules[name]


def test_meteor_asks_line_by_line_and_reads_each_score_and_the_corpus(played: Played) -> None:
    score, each = meteor(["a dog", "", "a ||| cat\nruns"], [["a dog runs", "a dog"], ["a dog"], ["a cat runs"]])
    np.testing.assert_allclose(each, [1.0, 0.0, 1.0])
    assert score == pytest.approx(2 / 3)
    command, *lines = played.asked.read_text().splitlines()
    assert command.split()[0] == "-Xmx2G" and command.endswith("meteor-1.5.jar - - -stdio -l en -norm")
    assert lines[0] == "SCORE ||| a dog runs ||| a dog ||| a dog"
    assert lines[2] == "SCORE ||| a cat runs ||| a cat runs", "neither a separator nor a line break can end a field"
    assert lines[3] == "EVAL ||| 1.0 ||| 0.0 ||| 1.0"


def test_spice_hands_over_a_file_and_puts_scores_in_order(played: Played) -> None:
    played.parser()
    assert require(["meteor", "spice"]) == {}
    score, each = spice(["a dog", "a cat", "ein café"], [["a dog"], ["a dog"], ["x", "ein café"]])
    assert each.tolist() == [1.0, 0.0, 1.0] and score == pytest.approx(2 / 3)
    command, rows = played.asked.read_text().splitlines()
    assert "-Xmx8G" in command and command.endswith("-subset -silent")
    assert json.loads(rows)[2] == {"image_id": 2, "test": "ein café", "refs": ["x", "ein café"]}


def test_plain_captions_are_split_first(played: Played) -> None:
    assert official_scores(["meteor"], ["A dog, running."], [["a DOG running!"]]) == {"meteor": 1.0}
    assert official_scores([], ["a"], [["a"]]) == {} and require([]) == {}


@pytest.mark.parametrize("score", [meteor, spice])
def test_a_program_that_fails_is_named_with_its_own_words(score, played: Played) -> None:
    played.parser()
    played.java(trouble="out of heap")
    with pytest.raises(EnvironmentProblem, match="program failed: Exception: out of heap"):
        score(["a dog"], [["a dog"]])


def test_without_the_package(played: Played) -> None:
    shutil.rmtree(played.package / "meteor")
    with pytest.raises(
        EnvironmentProblem, match=r"METEOR and SPICE needs? pycocoevalcap .*; install it: pip install 'openmplug\[official\]'"
    ):
        require(["meteor", "spice"])


def test_without_java(played: Played) -> None:
    (played.bin / "java").unlink()
    with pytest.raises(EnvironmentProblem, match="METEOR needs Java, and no 'java' is on the PATH; install it: apt install default-jre-"):
        require(["meteor"])


def test_without_the_parser_spice_alone_is_missing(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    reason = require(["meteor", "spice"])["spice"]
    assert "no way out" in reason and "put them there by hand" in reason and str(played.package / "spice" / "lib") in reason
    assert capsys.readouterr().out == "", "stdout may be somebody's JSON"
    with pytest.raises(EnvironmentProblem, match="the download failed"):
        spice(["a"], [["a"]])


def test_unknown_names_and_nothing_to_score(played: Played) -> None:
    with pytest.raises(ValueError, match="unknown official score 'bleu'; expected one of meteor, spice"):
        require(["bleu"])
    for score in (meteor, spice):
        with pytest.raises(ValueError, match="0 captions and 0 lists of references"):
            score([], [])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR itself is a Java program, and there is no java here")
def test_meteor_equals_pycocoevalcap() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    hypotheses = ["a dog runs", "a man", "x", "", "two children are playing in the snow", "an old woman 's hat"]
    references = [
        ["a dog is running", "the cat"],
        ["café 中文", "a man"],
        ["x"],
        ["a dog"],
        ["2 kids play in snow", "children play"],
        ["the hat of an old lady"],
    ]
    wrapper = Meteor()
    wanted, each = wrapper.compute_score(dict(enumerate(references)), {number: [one] for number, one in enumerate(hypotheses)})
    found, values = meteor(hypotheses, references)
    assert found == pytest.approx(wanted, abs=1e-12) and 0 < found < 1
    np.testing.assert_allclose(values, each, atol=1e-12)
