from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.weights import grow_weights, load_weights, save_state, save_weights


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


def test_weights_grow_by_means_of_old_rows_and_keep_the_others(tmp_path):
    source, target = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    old = nn.Embedding(4, 3)
    save_weights(old, source)
    grow_weights(source, target, {"weight": [[0, 2], [1]]})
    new = nn.Embedding(6, 3)
    load_weights(new, target)
    assert torch.equal(new.weight[:4], old.weight)
    assert torch.equal(new.weight[4], (old.weight[0] + old.weight[2]) / 2) and torch.equal(new.weight[5], old.weight[1])


def test_shared_weights_grow_together(tmp_path):
    save_weights(Tied(), tmp_path / "old")
    rows = {name: [[0, 1]] for name in ("inside.weight", "outside.weight")}
    grow_weights(tmp_path / "old", tmp_path / "new", rows)
    grown = Tied()
    grown.inside = grown.outside = nn.Linear(3, 4, bias=False)
    load_weights(grown, tmp_path / "new")


def test_without_new_rows_the_file_is_copied(tmp_path):
    save_weights(Tied(), tmp_path / "old")
    grow_weights(tmp_path / "old", tmp_path / "new", {"inside.weight": []})
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()


def test_weights_that_lack_what_is_to_grow_are_refused_and_nothing_is_written(tmp_path):
    source, target = tmp_path / "old", tmp_path / "new"
    save_weights(nn.Embedding(4, 3), source)
    with pytest.raises(ValueError, match=r"old belongs to another tokenizer: 'weight' has 4 rows, and no row 7"):
        grow_weights(source, target, {"weight": [[0, 7]]})
    with pytest.raises(ValueError, match=r"old belongs to another encoder: it lacks 'tokens\.weight'"):
        grow_weights(source, target, {"tokens.weight": [[0, 1]]})
    source.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        grow_weights(source, target, {})
    assert not target.exists()
