"""The package as others get it: version, import time, what the wheel holds, what tracked files say, the layers contract."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "openmplug"
HEAVY = ("torch", "numpy", "PIL", "tokenizers", "safetensors", "matplotlib", "tensorboard", "transformers")


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def tracked_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    return [REPOSITORY / name for name in listing.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version_agrees_everywhere(pyproject: dict) -> None:
    version = run_python("import openmplug; print(openmplug.__version__)").strip()
    assert version == pyproject["project"]["version"]
    assert f"## {version}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["openmplug", "openmplug.cli.app"])
def test_import_stays_light(module: str) -> None:
    loaded = run_python(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])").strip()
    assert loaded == "[]"


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    missing = sorted(str(folder.relative_to(REPOSITORY)) for folder in folders if not (folder / "__init__.py").is_file())
    assert missing == []


def test_package_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_wheel_holds_code_recipes_and_command(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    project = tmp_path / "project"  # a copy: building leaves folders behind
    shutil.copytree(REPOSITORY / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, project)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("openmplug-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (entry_points,) = (name for name in held if name.endswith("entry_points.txt"))
        assert "openmplug = openmplug.cli.app:main" in archive.read(entry_points).decode()
    shipped = {
        path.relative_to(REPOSITORY / "src").as_posix()
        for path in SOURCE.rglob("*")
        if path.suffix in {".py", ".yaml"} or path.name == "py.typed"
    }
    assert any(name.endswith(".yaml") for name in shipped)
    assert shipped - held == set()
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_files_name_no_machine_and_no_registry() -> None:
    folders = re.compile("(^|[^A-Za-z0-9_.])/(" + "|".join(["work", "farm", "root"]) + ")/")
    hosts = re.compile("|".join(re.escape(f"{first}.{second}") for first, second in [("pypi", "org"), ("pythonhosted", "org")]))
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or weights
        for number, line in enumerate(text.splitlines(), 1):
            if folders.search(line) or hosts.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_no_large_file_is_tracked() -> None:
    large = [(path, path.stat().st_size) for path in tracked_files() if path.stat().st_size > 2 * 1024**2]
    shipped = SOURCE / "weights"  # what comes with the package may have 40 MB in all
    assert [str(path.relative_to(REPOSITORY)) for path, _ in large if shipped not in path.parents] == []
    assert sum(size for path, size in large if shipped in path.parents) <= 40_000_000


def test_layers_contract_names_every_module(pyproject: dict) -> None:
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (layers,) = (contract for contract in contracts if contract["type"] == "layers")
    assert layers["layers"] == [
        "cli | compat",
        "serving",
        "inference | engine",
        "tasks | checkpoints",
        "models | objectives | data | metrics",
        "config | batch | device | distributed | lock",
        "errors",
    ]
    assert layers["exhaustive"] is True
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")} | set(layers["exhaustive_ignores"])
    present = {path.stem if path.is_file() else path.name for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert present - named - {"__init__", "__pycache__"} == set()


def test_constraints_pin_every_requirement(pyproject: dict) -> None:
    project = pyproject["project"]
    wanted = [*project["dependencies"], *(item for extra in ("dev",) for item in project["optional-dependencies"][extra])]
    names = {re.split(r"[\[<>=; ]", item, maxsplit=1)[0].lower() for item in wanted}
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert names - pinned == set()


@pytest.mark.parametrize("folder", ["scripts", "benchmarks", "examples"])
def test_programs_beside_the_package_import_names_that_are_there(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "openmplug":
                module = importlib.import_module(node.module or "")
                submodules = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
                assert not [name.name for name in node.names if not hasattr(module, name.name) and name.name not in submodules], file
