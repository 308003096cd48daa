import pytest
import torch

from harness.errors import UserError
from harness.measure.training import checkpoint


def test_round_trip(tmp_path):
    path = tmp_path / "run.ckpt"
    state = {"weights": {"w": torch.arange(3.0)}, "epoch": 2, "log": [{"loss": 0.5, "ndcg": None}]}
    checkpoint.save(path, "run", "code", state)
    found = checkpoint.load(path, "run", "code")
    assert torch.equal(found["weights"]["w"], state["weights"]["w"])
    assert found["log"] == state["log"]
    assert list(tmp_path.iterdir()) == [path]


def test_none_where_there_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "run.ckpt", "run", "code") is None


def test_another_run_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    checkpoint.save(path, "first", "code", {})
    with pytest.raises(UserError, match=r"checkpoint of run first .* this run is second .*delete the file"):
        checkpoint.load(path, "second", "code")
    assert path.is_file()


def test_other_code_starts_again(tmp_path, capsys):
    path = tmp_path / "run.ckpt"
    checkpoint.save(path, "run", "old", {})
    assert checkpoint.load(path, "run", "new") is None
    assert "the code changed" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "foreign"])
def test_damage_is_said_and_starts_again(tmp_path, capsys, damage):
    path = tmp_path / "run.ckpt"
    checkpoint.save(path, "run", "code", {"weights": torch.arange(1000.0)})
    content = path.read_bytes()
    if damage == "foreign":
        torch.save([1, 2], path)
    else:
        middle = len(content) // 2
        path.write_bytes({"empty": b"", "cut": content[:middle], "text": b"hello"}[damage])
    assert checkpoint.load(path, "run", "code") is None
    assert "damaged checkpoint" in capsys.readouterr().err


def test_random_state(tmp_path):
    device = torch.device("cpu")
    state = checkpoint.random_state(device)
    first = torch.rand(3)
    checkpoint.restore_random_state(state, device)
    assert torch.equal(torch.rand(3), first)


def test_weights_are_a_copy():
    model = torch.nn.Linear(2, 2)
    kept = checkpoint.weights(model)
    with torch.no_grad():
        model.weight.zero_()
    assert kept["weight"].any()
