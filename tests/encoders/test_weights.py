from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.weights import load_weights, save_state, save_weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(3, 3, bias=False)
        self.outside = nn.Linear(3, 3, bias=False)
        self.outside.weight = self.inside.weight
        self.register_buffer("queue", torch.arange(4))


def linear(seed, width=3, **arguments):
    torch.manual_seed(seed)
    return nn.Linear(2, width, **arguments)


def test_weights_return_bit_for_bit(tmp_path):
    source, target = linear(0), linear(1)
    save_weights(source, tmp_path / "new" / "weights.safetensors")
    load_weights(target, tmp_path / "new" / "weights.safetensors")
    assert torch.equal(source.weight, target.weight) and torch.equal(source.bias, target.bias)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.safetensors"]


def test_shared_tensors_and_buffers(tmp_path):
    source, target = Tied(), Tied()
    source.queue += 5
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.inside.weight, source.inside.weight)
    assert target.outside.weight is target.inside.weight
    assert target.queue.tolist() == [5, 6, 7, 8]


def test_channels_last_weights_keep_their_values_and_their_layout(tmp_path):
    source, target = ConvNet(32, 8), ConvNet(32, 8)
    source.setup()
    target.setup()
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    for ours, theirs in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(linear(0), path)
    before = path.read_bytes()

    def fail(module, name):
        Path(name).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("moonlib.encoders.weights.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(linear(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (linear(0, width=4), r"'weight' is \[3, 2\] there and \[4, 2\] here"),
        (linear(0, bias=False), r"'bias' \[3\] is not part of this one"),
        (Tied(), r"it lacks 'queue' \[4\]"),
    ],
)
def test_weights_of_another_module_are_refused_and_nothing_changes(tmp_path, other, message):
    save_weights(linear(0), tmp_path / "w.safetensors")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.safetensors belongs to another encoder: {message}"):
        load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_file_that_is_missing_or_not_safetensors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*w\.safetensors"):
        load_weights(linear(0), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"w\.safetensors is not a safetensors file"):
        load_weights(linear(0), tmp_path / "w.safetensors")


def test_tensors_by_name_are_read_back_as_a_module_s(tmp_path: Path) -> None:
    """What is gathered of sharded weights has one tensor under two names where modules share it."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    file = tmp_path / "weights.safetensors"
    save_state(module.state_dict(), file)
    other = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    other["b"].weight = other["a"].weight
    load_weights(other, file)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
