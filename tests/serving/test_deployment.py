"""The container and the system service: what they start is a command of ours, and they leave it the time it asks for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer

from documents import REPOSITORY
from openmplug import errors
from openmplug.cli.app import app
from openmplug.serving import keys
from openmplug.serving.limits import Limits
from openmplug.serving.protocol import protocol_options
from openmplug.serving.service import LONGEST_STOP_SECONDS
from serving.conftest import Running

DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
UNIT = REPOSITORY / "deploy" / "openmplug.service"
PAGE = REPOSITORY / "docs" / "serving.md"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: name and the rest of the line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()]


def instruction(name: str) -> str:
    """Return the last instruction of a name: what holds for the image."""
    return [rest for each, rest in instructions() if each == name][-1]


def unit() -> dict[str, list[str]]:
    """Return the unit's settings, of all sections together."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def settings(words: list[str]) -> dict[str, Any]:
    """Parse a command as the command line does, without running it; a wrong option raises what a user would see."""
    program, verb, *arguments = words
    assert (Path(program).name, verb) == ("openmplug", "serve")
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return command.make_context("serve", arguments).params


def longest_end_seconds(drain: float) -> float:
    """From SIGTERM to the last moment a service that drains so long may take."""
    return drain + protocol_options(Limits())["timeout_graceful_shutdown"] + LONGEST_STOP_SECONDS


def test_the_parser_of_these_tests_knows_a_wrong_option() -> None:
    with pytest.raises(Exception, match="No such option"):
        settings(["openmplug", "serve", "--model", "small", "--no-such-option"])


# ---------------------------------------------------------------------------------------------------------------- container


def test_the_container_starts_our_command() -> None:
    started = settings(json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD")))
    assert (started["host"], str(started["port"]), str(started["model"])) == ("0.0.0.0", instruction("EXPOSE"), "small")
    assert (started["api_keys"], started["allow_urls"]) == (None, False), "keys come from the environment, addresses are off"
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_the_container_is_nobody_with_rights() -> None:
    user, group = instruction("USER").split(":")
    assert int(user) > 0 and int(group) > 0
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))
    assert f"--uid {user} " in dict(instructions())["RUN"]


def test_the_container_tells_its_health(served: Running) -> None:
    command = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    port = json.loads(instruction("ENTRYPOINT")).index("--port") + 1
    assert json.loads(instruction("ENTRYPOINT"))[port] in command[2]
    asked = re.search(r"'GET', '(/\w+)'", command[2])
    assert asked is not None and asked[1] in served.client.get("/openapi.json").json()["paths"]
    code = command[2].replace("8000", str(served.address[1]))
    assert subprocess.run([sys.executable, *command[1:2], code], capture_output=True, timeout=60).returncode == 0
    nowhere = subprocess.run([sys.executable, *command[1:2], command[2].replace("8000", "1")], capture_output=True, timeout=60)
    assert nowhere.returncode != 0


def ignored(path: str) -> bool:
    """Say whether a file stays out of the build: the last pattern that fits it or a folder around it decides."""
    out = False
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        around = [path, *(str(folder) for folder in Path(path).parents if str(folder) != ".")]
        if any(fnmatch(one, pattern) or fnmatch(f"/{one}", f"*{pattern.removeprefix('**')}") * pattern.startswith("**/") for one in around):
            out = not line.startswith("!")
    return out


def test_the_container_gets_what_it_needs_and_nothing_else() -> None:
    copied = [source for name, rest in instructions() if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]]
    assert {"src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(copied)
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert not ignored(source)
    assert not ignored("src/openmplug/weights/small/model.safetensors")
    assert not ignored("src/openmplug/recipes/results.json")
    for other in (".git/config", ".env", "keys.txt", "runs/a/model.safetensors", "deploy/serve.env", ".venv/bin/python", "docs/index.md"):
        assert ignored(other), other
    assert ignored("src/openmplug/__pycache__/api.cpython-311.pyc")


def test_the_container_can_be_told_which_torch() -> None:
    arguments = dict(rest.split("=") for name, rest in instructions() if name == "ARG" and "=" in rest)
    assert arguments["TORCH"] == "cpu"
    assert "serve" in arguments["EXTRAS"].split(",")
    extras = re.findall(r"^(\w+) = \[", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(arguments["EXTRAS"].split(",")) <= set(extras)
    installs = [rest for name, rest in instructions() if name == "RUN" and rest.startswith("uv ")]
    assert len(installs) == 2
    for line in installs:
        assert '--torch-backend "${TORCH}"' in line and "--constraint constraints.txt" in line


# ----------------------------------------------------------------------------------------------------------- system service


def test_the_unit_starts_our_command_and_lets_it_end() -> None:
    found = unit()
    started = settings(shlex.split(found["ExecStart"][0]))
    assert found["KillSignal"] == ["SIGTERM"]
    assert found["KillMode"] == ["mixed"], "the model processes finish what was accepted"
    assert int(found["TimeoutStopSec"][0]) > longest_end_seconds(started["drain"])
    assert int(found["LimitNOFILE"][0]) > 2 * started["max_connections"]
    never = {error.exit_code for error in (errors.UsageError, errors.DataError, errors.ModelError)}
    assert set(map(int, found["RestartPreventExitStatus"][0].split())) == never
    assert errors.EnvironmentProblem.exit_code not in never, "a port that is taken may be free the next time"


def test_the_unit_is_not_open_by_mistake() -> None:
    found = unit()
    assert not found["EnvironmentFile"][0].startswith("-"), "without its keys it must not start"
    assert f"# {keys.VARIABLE}=" in UNIT.read_text(encoding="utf-8")
    for name, value in {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "CapabilityBoundingSet": ""}.items():
        assert found[name] == [value]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    there = tmp_path / "openmplug.service"
    there.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/openmplug/bin/openmplug", sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(there)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# ----------------------------------------------------------------------------------------------------------------- the page


def test_the_page_gives_a_container_the_time_it_needs() -> None:
    times = [int(each) for each in re.findall(r"--stop-timeout (\d+)", PAGE.read_text(encoding="utf-8"))]
    assert times and min(times) > longest_end_seconds(Limits().drain_seconds)
