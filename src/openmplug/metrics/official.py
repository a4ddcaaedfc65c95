"""METEOR and SPICE of captions, by the programs that papers report: both are written in Java and come with pycocoevalcap.

Needed: ``pip install 'openmplug[official]'`` and a Java runtime. SPICE also needs Stanford's parser (400 MB), which is downloaded once;
where that is not possible the score is left out and the reason is given. Both programs read captions that are split as for CIDEr.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from openmplug.errors import EnvironmentProblem
from openmplug.metrics.captions import check_captions, ptb_tokenise
from openmplug.metrics.ngrams import Floats

OFFICIAL = ("meteor", "spice")

_INSTALL = "pip install 'openmplug[official]'"
_METEOR_JAR = Path("meteor") / "meteor-1.5.jar"
_SPICE_JAR = Path("spice") / "spice-1.0.jar"
_PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_BETWEEN = " ||| "
_PATIENCE_SECONDS = 30.0  # of a download that does not answer
_SPICE_HOURS = 6


def require(names: Sequence[str]) -> dict[str, str]:
    """Look for what the official scorers need, and download SPICE's parser if that is what is missing.

    Args:
        names: Some of ``OFFICIAL``.

    Returns:
        For each score that cannot be computed although package and Java are there, the reason. Only SPICE can be among them.

    Raises:
        EnvironmentProblem: If pycocoevalcap or Java are missing.
        ValueError: If a name is unknown.
    """
    for name in names:
        if name not in OFFICIAL:
            raise ValueError(f"unknown official score {name!r}; expected one of {', '.join(OFFICIAL)}")
    if not names:
        return {}
    package = _package(names)
    _java(names)
    reason = _parser_missing(package) if "spice" in names else ""
    return {"spice": reason} if reason else {}


def official_scores(names: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score captions with the official programs.

    Args:
        names: Some of ``OFFICIAL``, such as ``require`` has found to work.
        hypotheses: One caption per item, plain text, (N,).
        references: For each item what people wrote, at least one each.

    Returns:
        Each name's score, 0 to 1.

    Raises:
        EnvironmentProblem: If something is missing or a program fails.
        ValueError: If there is nothing to score, the lengths differ, or an item has no reference.
    """
    check_captions(hypotheses, references)
    ours, theirs = [ptb_tokenise(text) for text in hypotheses], [[ptb_tokenise(text) for text in several] for several in references]
    return {name: _SCORERS[name](ours, theirs)[0] for name in names}


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """Return METEOR 1.5 of English: the corpus' score, which is no mean of the items', and each item's.

    Args:
        hypotheses: One caption per item, words separated by white space.
        references: For each item its references, likewise.

    Returns:
        Score and scores (N,), 0 to 1.

    Raises:
        EnvironmentProblem: If pycocoevalcap or Java are missing, or the program fails.
        ValueError: As :func:`official_scores`.

    Source: Denkowski and Lavie, WMT 2014; called as COCO evaluation calls it (``-l en -norm``).
    """
    check_captions(hypotheses, references)
    jar = _package(("meteor",)) / _METEOR_JAR
    command = [_java(("meteor",)), "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as trouble:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=trouble, encoding="utf-8")
        assert process.stdin is not None and process.stdout is not None

        def ask(line: str) -> None:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

        def answer() -> str:
            assert process.stdout is not None
            return process.stdout.readline().strip()

        try:
            counted = []
            for hypothesis, several in zip(hypotheses, references, strict=True):
                ask(_BETWEEN.join(("SCORE", *(_one_line(text) for text in several), _one_line(hypothesis))))
                counted.append(answer())
            ask(_BETWEEN.join(("EVAL", *counted)))
            values = [float(answer()) for _ in range(len(hypotheses) + 1)]
        except (OSError, ValueError) as error:  # a broken pipe, or a line that is no number
            raise EnvironmentProblem(f"METEOR's program failed: {_last_line(trouble) or error}; see: java -jar {jar}") from error
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not yet written has nobody to read it
                    stream.close()
    return values[-1], np.array(values[:-1])


def spice(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """Return SPICE: the mean F-score of all tuples, and each item's.

    Args:
        hypotheses: One caption per item, words separated by white space.
        references: For each item its references, likewise.

    Returns:
        Mean and scores (N,), 0 to 1.

    Raises:
        EnvironmentProblem: If pycocoevalcap, Java or Stanford's parser are missing, or the program fails.
        ValueError: As :func:`official_scores`.

    Source: Anderson et al., ECCV 2016; the program is called as COCO evaluation calls it, without its cache of parsed captions.
    """
    check_captions(hypotheses, references)
    package = _package(("spice",))
    if reason := _parser_missing(package):
        raise EnvironmentProblem(reason)
    pairs = enumerate(zip(hypotheses, references, strict=True))
    rows = [{"image_id": number, "test": ours, "refs": list(theirs)} for number, (ours, theirs) in pairs]
    with tempfile.TemporaryDirectory(prefix="openmplug-spice-") as folder:
        given, found = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(rows), encoding="utf-8")
        command = [_java(("spice",)), "-Xmx8G", "-jar", str(package / _SPICE_JAR), str(given), "-out", str(found), "-subset", "-silent"]
        try:
            ran = subprocess.run(
                command, cwd=package / _SPICE_JAR.parent, capture_output=True, check=False, timeout=_SPICE_HOURS * 3600, encoding="utf-8"
            )
            scores = {row["image_id"]: float(row["scores"]["All"]["f"]) for row in json.loads(found.read_text(encoding="utf-8"))}
            values = np.array([scores[number] for number in range(len(rows))])
        except subprocess.TimeoutExpired as error:
            raise EnvironmentProblem(f"SPICE's program was stopped after {_SPICE_HOURS} hours; score fewer captions") from error
        except (OSError, ValueError, KeyError, TypeError) as error:  # no file, or not what it should hold
            last = ran.stderr.strip().splitlines()[-1:] or [str(error)]
            raise EnvironmentProblem(f"SPICE's program failed: {last[0]}; it needs 8 GB of memory and was written for Java 8") from error
    return float(values.mean()), values


_SCORERS = {"meteor": meteor, "spice": spice}


def _package(names: Sequence[str]) -> Path:
    """Return the folder of pycocoevalcap; a real import, because an installed package may not load."""
    try:
        from pycocoevalcap.meteor import meteor as wrapper
    except ImportError as error:
        raise EnvironmentProblem(f"{_shown(names)} needs pycocoevalcap ({error}); install it: {_INSTALL}") from error
    return Path(wrapper.__file__).parents[1]


def _java(names: Sequence[str]) -> str:
    found = shutil.which("java")
    if found is None:
        raise EnvironmentProblem(f"{_shown(names)} needs Java, and no 'java' is on the PATH; install it: apt install default-jre-headless")
    return found


def _parser_missing(package: Path) -> str:
    """Download SPICE's parser where it is not there; return why it is still missing, or nothing."""
    folder = package / "spice" / "lib"
    if all((folder / name).is_file() for name in _PARSER):
        return ""
    patience = socket.getdefaulttimeout()
    try:
        from pycocoevalcap.spice.get_stanford_models import get_stanford_models

        socket.setdefaulttimeout(_PATIENCE_SECONDS)
        with contextlib.redirect_stdout(sys.stderr):  # it prints its progress, and stdout may be somebody's JSON
            get_stanford_models()
    except (ImportError, OSError) as error:
        return f"SPICE needs {' and '.join(_PARSER)} in '{folder}', and the download failed ({error}); put them there by hand"
    finally:
        socket.setdefaulttimeout(patience)
    return ""


def _shown(names: Sequence[str]) -> str:
    return " and ".join(name.upper() for name in names)


def _one_line(text: str) -> str:
    """Keep a caption from being read as two: the program's fields end at ``|||`` and its requests at a line's end."""
    return " ".join(text.replace("|||", " ").split())


def _last_line(trouble: IO[bytes]) -> str:
    trouble.seek(0)
    lines = trouble.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
