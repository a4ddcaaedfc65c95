"""Settings: YAML 1.2, extends, overrides, and messages that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, model_validator

from openmplug.config import Settings, apply_overrides, did_you_mean, dump_yaml, load_tree, read_yaml, validate
from openmplug.errors import UsageError


class Optim(Settings):
    """Learning."""

    lr: float = 1e-4
    epochs: int = Field(default=1, ge=1)


class Lengths(Settings):
    """Two numbers that may contradict each other."""

    min_length: int = 1
    max_length: int = 10

    @model_validator(mode="after")
    def ordered(self) -> Lengths:
        """Refuse a contradiction."""
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}; lower min_length")
        return self


class Run(Settings):
    """A small recipe."""

    task: str
    optim: Optim = Optim()
    lengths: Lengths | None = None
    seed: int = 0


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("010", 10),
        ("0x10", 16),
        ("true", True),
        ("yes", "yes"),
        ("no", "no"),
        ("off", "off"),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("[yes, no, 2]", ["yes", "no", 2]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    read = read_yaml(write(tmp_path, "a.yaml", f"key: {text}\n"))["key"]
    assert read == value
    assert type(read) is type(value)
    assert apply_overrides({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_dump_is_read_back_unchanged(tmp_path: Path) -> None:
    tree = {"z": 2e-5, "a": "2e-5", "no": "no", "list": [1, "1", None, True, "true"], "nested": {"é": "x: y"}}
    read = read_yaml(write(tmp_path, "a.yaml", dump_yaml(tree)))
    assert read == tree
    assert list(read) == list(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", r"line 2: key 'a' occurs twice"),
        ("a: {b: 1, b: 2}\n", r"key 'b' occurs twice"),
        ("a: [1, 2\n", r"not valid YAML, line"),
        ("- 1\n- 2\n", r"must be a mapping of names to values, got a list"),
        ("a: !!python/object:os.system x\n", r"not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_yaml(write(tmp_path, "a.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read '.*none.yaml': No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_extends_looks_in_the_root_and_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "root/vqa/_base.yaml", "task: vqa\noptim: {lr: 1e-4, epochs: 8}\n")
    below = write(tmp_path, "root/vqa/one.yaml", "extends: vqa/_base.yaml\noptim: {lr: 2e-5}\n")
    assert load_tree(below, tmp_path / "root") == {"task": "vqa", "optim": {"lr": 2e-5, "epochs": 8}}
    beside = write(tmp_path, "root/vqa/two.yaml", "extends: _base.yaml\nseed: 3\n")
    assert load_tree(beside) == {"task": "vqa", "optim": {"lr": 1e-4, "epochs": 8}, "seed": 3}


def test_extends_only_once_and_only_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", "extends: two.yaml\n")
    write(tmp_path, "two.yaml", "extends: three.yaml\n")
    with pytest.raises(UsageError, match="only one level is allowed"):
        load_tree(tmp_path / "one.yaml")
    with pytest.raises(UsageError, match=r"extends 'three\.yaml', which is not there; looked for"):
        load_tree(tmp_path / "two.yaml")
    with pytest.raises(UsageError, match="extends must be one file name"):
        load_tree(write(tmp_path, "list.yaml", "extends: [a, b]\n"))


def test_overrides_merge_and_leave_the_tree_alone() -> None:
    tree = {"optim": {"lr": 1.0, "epochs": 2}, "seed": 0}
    result = apply_overrides(tree, ["optim.lr=2e-5", "data.train=[a,b]", "seed=null", "text=a=b"])
    assert result == {"optim": {"lr": 2e-5, "epochs": 2}, "seed": None, "data": {"train": ["a", "b"]}, "text": "a=b"}
    assert tree == {"optim": {"lr": 1.0, "epochs": 2}, "seed": 0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "is not a setting; write it as name=value"),
        ("=3", "is not a setting"),
        ("a..b=3", "is not a setting"),
        ("data.root=", "has no value; for an empty text write"),
        ("a=[1", "the value of 'a=\\[1' is not valid YAML"),
        ("seed.more=1", "'seed' is a plain value \\(5\\), it has no settings below it"),
    ],
)
def test_malformed_overrides(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_overrides({"seed": 5}, [override])


def test_validate_returns_the_settings() -> None:
    run = validate(Run, {"task": "vqa", "optim": {"lr": 2e-5}})
    assert run.optim.lr == 2e-5
    with pytest.raises(Exception, match="frozen"):
        run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"task": "vqa", "optim": {"lrr": 1}}, r"unknown setting 'optim\.lrr'; did you mean 'optim\.lr'\?"),
        ({"task": "vqa", "lr": 1}, r"unknown setting 'lr'; did you mean 'optim\.lr'\?"),
        ({"task": "vqa", "lengths": {"max_len": 1}}, r"unknown setting 'lengths\.max_len'; did you mean 'lengths\.max_length'\?"),
        ({"task": "vqa", "optim": {"qqqqqqq": 1}}, r"unknown setting 'optim\.qqqqqqq'; known here: optim\.lr, optim\.epochs"),
        ({"task": "vqa", "optim": {"lr": "abc"}}, r"setting 'optim\.lr': input should be a valid number.*, got 'abc'"),
        ({"task": "vqa", "optim": {"epochs": 0}}, r"setting 'optim\.epochs': .*greater than or equal to 1, got 0"),
        ({}, r"setting 'task' is missing; add task=VALUE"),
        ({"task": "vqa", "lengths": {"min_length": 11}}, r"lengths: min_length 11 is above max_length 10; lower min_length"),
        ({"task": 1, "a": 1, "b": 1, "c": 1}, r"\(and 1 more\)"),
    ],
)
def test_validate_explains(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        validate(Run, tree)
    assert "\n" not in str(caught.value)


def test_validate_names_the_section() -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'settings\.max_lenght'; did you mean 'settings\.max_length'\?"):
        validate(Lengths, {"max_lenght": 3}, where="settings")
    with pytest.raises(UsageError, match="settings: min_length 11 is above max_length 10"):
        validate(Lengths, {"min_length": 11}, where="settings")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vqa/vqav3", "; did you mean 'vqa/vqav2_mplug_base'?"),
        ("vqa/vqav2", "; did you mean 'vqa/vqav2_mplug_base'?"),
        ("zzz", ""),
    ],
)
def test_did_you_mean(name: str, hint: str) -> None:
    assert did_you_mean(name, ["caption/coco_mplug_base", "vqa/vqav2_mplug_base"]) == hint
