"""Several processes as one, where there is but one; what two do is in tests/engine/test_parallel.py."""

from __future__ import annotations

import pytest
import torch

from openmplug import distributed
from openmplug.errors import DataError, EnvironmentProblem


def test_one_process_joins_nobody_and_everything_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed.joined(torch.device("cpu")):
        assert not distributed.active() and distributed.is_main()
        assert (distributed.rank(), distributed.world_size(), distributed.launched()) == (0, 1, 1)
        distributed.barrier()
        assert distributed.share({"a": 1}) == {"a": 1} and distributed.gather_objects("x") == ["x"]
        assert distributed.everyone([1, 2]) == [[1, 2]]
        assert distributed.row_counts(3) == [3] and distributed.own_rows([3]) == slice(0, 3)
    assert distributed.local_device("cpu") == torch.device("cpu") and distributed.local_device("cuda") == torch.device("cuda")


def test_gathering_from_one_process_changes_nothing() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather_with_gradient(rows) is rows
    assert torch.equal(distributed.gather(rows), rows) and not distributed.gather(rows).requires_grad
    count = torch.tensor(7)
    assert distributed.fair_count(count) is count and torch.equal(distributed.mean(rows), rows)


def test_one_process_raises_what_it_raises() -> None:
    for together in (distributed.agreed, distributed.alike):
        with pytest.raises(DataError, match="bad row") as caught, together():
            raise DataError("bad row")
        assert not caught.value.told


def test_a_launch_that_does_not_fit_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(
        EnvironmentProblem, match="process 5 of this machine has no GPU: 4 are here; start torchrun with --nproc-per-node 4"
    ):
        distributed.local_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "eight")
    with pytest.raises(EnvironmentProblem, match="environment variable WORLD_SIZE is 'eight'; expected a number, as torchrun sets it"):
        distributed.launched()


def test_what_torch_says_of_a_lost_process_becomes_one_line() -> None:
    said = "[../gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:4242"
    expected = r"another process of this run ended.*4242.*--resume goes on from there"
    with pytest.raises(distributed.LostProcess, match=expected) as caught, distributed._answering():
        raise RuntimeError(said)
    assert "\n" not in str(caught.value) and not caught.value.told
    with pytest.raises(RuntimeError, match="shapes do not match"), distributed._answering():
        raise RuntimeError("shapes do not match")
