from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from networks import narrowed, separating_weights
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from training import ALWAYS, RECIPE, at_step, interrupt, memory_set, network_in, record_of

from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.model.architecture import Architecture, LocalNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import Network, network_from
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint, load_tensors
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.run import Resume
from alexnet_deploy.train.run import train as train_run
from alexnet_deploy.train.runtime.distributed import Ranks
from alexnet_deploy.train.runtime.placement import placed
from alexnet_deploy.train.runtime.two_columns import TwoColumns, second_device, two_columns

TABLE = narrowed(ARCHITECTURES["original"])
HERE = ("cpu", "cpu")

# If only the order of a sum differs, n float64 products differ by at most n * 2^-53 of their size: 1.3e-13 for the
# longest, fc6's 1,152. There are eight layers, forward and backward; differences are relative to a tensor's largest
# value. float32 has no such bound for gradients: a ReLU or a maximum may select the other side.
EXACT = 1e-11


def changed(table: Architecture, **changes: Callable[[Any], Any]) -> Architecture:
    """The table with the named layers replaced."""
    layers = tuple(changes.get(layer.name, lambda layer: layer)(layer) for layer in table.layers)
    return msgspec.structs.replace(table, layers=layers)


def fed(num_images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    images = 60 * torch.randn((num_images, 3, TABLE.input_size, TABLE.input_size), generator=draws)
    return images, torch.arange(num_images) % TABLE.num_classes


@pytest.fixture(scope="module")
def grouped() -> Network:
    weights = separating_weights(TABLE)
    return network_from(TABLE, weights.tensors)


def double(network: Network) -> Network:
    return network_from(TABLE, {name: tensor.numpy() for name, tensor in network.state_dict().items()}).double()


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def gradients(columns: TwoColumns) -> dict[str, torch.Tensor]:
    """The columns' tensors joined under the table's names, by hand and not by state_dict."""
    named = [dict(column.named_parameters()) for column in columns.columns]
    return {
        name: torch.cat([column[name].grad for column in named if name in column])  # type: ignore[misc]
        for name in TABLE.tensor_shapes()
    }


# The same numbers


def test_logits_are_the_grouped_networks_to_rounding(grouped: Network) -> None:
    images, _ = fed()
    in_double = double(grouped)
    with torch.inference_mode():
        truth = in_double(images.double())
        ours, theirs = (network(images) for network in (two_columns(grouped, HERE), grouped))
    # Half a layer may be summed in a different order than the whole: both are equally close to the exact sums.
    rounding = distance(theirs, truth)
    assert 0 < rounding < 1e-5
    assert distance(ours, truth) <= 4 * rounding
    assert distance(two_columns(in_double, HERE)(images.double()), truth) <= EXACT


def test_gradients_of_every_tensor_are_the_grouped_networks(grouped: Network) -> None:
    images, labels = fed()
    whole = double(grouped)
    columns = two_columns(whole, HERE)
    for network in (whole, columns):
        functional.cross_entropy(network(images.double()), labels).backward()
    ours = gradients(columns)
    assert ours.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
        assert distance(ours[name], parameter.grad) <= EXACT, name


def test_features_are_dropped_by_the_masks_of_the_grouped_network(grouped: Network) -> None:
    images, labels = fed()
    whole = double(grouped).train()
    columns = two_columns(whole, HERE)
    given = []
    for network in (whole, columns):
        torch.manual_seed(3)
        given.append(network(images.double()))
        functional.cross_entropy(given[-1], labels).backward()
    assert distance(given[1], given[0]) <= EXACT
    ours = gradients(columns)
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        assert distance(ours[name], parameter.grad) <= EXACT, name
    # Dropout has an effect, and other draws have another effect.
    assert distance(columns(images.double()), given[1]) > 1e-3
    assert distance(columns.eval()(images.double()), given[1]) > 1e-3


def test_steps_of_training_keep_them_the_same(grouped: Network) -> None:
    images, labels = fed()
    whole = double(grouped)
    columns = two_columns(whole, HERE)
    for network in (whole, columns):
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(network(images.double()), labels).backward()
            optimizer.step()
    first, ours, theirs = (network.state_dict() for network in (double(grouped), columns, whole))
    for name, tensor in theirs.items():
        # A weight's last bit is up to 1e-12 of such a small step, and there are three steps.
        assert distance(ours[name] - first[name], tensor - first[name]) <= 1e-9, name


def test_a_window_that_crosses_the_columns_would_be_seen(grouped: Network) -> None:
    images, _ = fed()
    crossing = changed(TABLE, norm1=lambda norm: msgspec.structs.replace(norm, groups=1))
    other = network_from(crossing, {name: tensor.numpy() for name, tensor in grouped.state_dict().items()})
    with torch.inference_mode():
        assert distance(two_columns(grouped, HERE)(images), other(images)) > 1e-3


# Tensors


def test_tensors_are_parted_and_gathered_without_a_bit_lost(grouped: Network) -> None:
    columns = two_columns(grouped, HERE)
    before = {name: tensor.clone() for name, tensor in grouped.state_dict().items()}
    after = columns.state_dict()
    assert list(after) == list(before) == list(TABLE.tensor_shapes())
    assert all(torch.equal(after[name], before[name]) for name in before)
    for tensor in after.values():
        tensor.add_(1.0)
    # state_dict returns copies, and load_state_dict copies into the columns.
    assert all(torch.equal(columns.state_dict()[name], before[name]) for name in before)
    columns.load_state_dict(after)
    assert all(torch.equal(columns.state_dict()[name], after[name]) for name in before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in grouped.state_dict().items())


def test_each_column_holds_half_of_every_layer_and_the_first_the_last() -> None:
    whole = ARCHITECTURES["original"]
    columns = TwoColumns(whole, HERE)
    first, second = ({n: p.numel() for n, p in column.named_parameters()} for column in columns.columns)
    assert sum(first.values()) + sum(second.values()) == whole.num_parameters == 60_965_224
    assert first.keys() - second.keys() == {"fc8.weight", "fc8.bias"}
    assert second.items() <= first.items()


@pytest.mark.parametrize("change", ["missing", "misnamed", "misshapen"])
def test_tensors_that_are_not_the_tables_are_refused(grouped: Network, change: str) -> None:
    columns = two_columns(grouped, HERE)
    state = grouped.state_dict()
    tensor = state.pop("conv3.weight")
    if change == "misnamed":
        state["conv6.weight"] = tensor
    if change == "misshapen":
        state["conv3.weight"] = tensor[:-2]
    with pytest.raises(RuntimeError, match=r"conv[36]\.weight"):
        columns.load_state_dict(state)


# Devices


class Crossings(TorchFunctionMode):
    """Records every copy between devices; tensors from `meta`, which have no values, become 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, tuple[int, ...]]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.to and isinstance(args[1], torch.device) and args[0].device != args[1]:
            self.seen.append((args[0].device.type, args[1].type, tuple(args[0].shape[1:])))
            if args[0].device.type == "meta":
                return torch.zeros(args[0].shape, device=args[1], requires_grad=True)
        return function(*args, **(kwargs or {}))


# Half of the inputs of conv3, fc6, fc7 and of fc8, which is only on the first device; in training also the second half
# of the masks of drop6 and drop7.
MASK = ("cpu", "meta", (32,))
BEFORE_FC7 = [
    ("cpu", "meta", (3, 224, 224)),
    ("meta", "cpu", (16, 13, 13)),
    ("cpu", "meta", (16, 13, 13)),
    ("meta", "cpu", (576,)),
    ("cpu", "meta", (576,)),
]
FC7, FC8 = [("meta", "cpu", (32,)), ("cpu", "meta", (32,))], [("meta", "cpu", (32,))]
EXCHANGED = {False: BEFORE_FC7 + FC7 + FC8, True: [*BEFORE_FC7, MASK, *FC7, MASK, *FC8]}


@pytest.mark.parametrize("is_training", [False, True])
def test_columns_stay_on_their_devices_and_exchange_only_where_a_layer_sees_both(
    grouped: Network, is_training: bool
) -> None:
    columns = two_columns(grouped, ("cpu", "meta")).train(is_training)
    for column, device in zip(columns.columns, ("cpu", "meta"), strict=True):
        assert {parameter.device.type for parameter in column.parameters()} == {device}
    images, labels = fed()
    with Crossings() as crossings:
        logits = columns(images)
    assert logits.device.type == "cpu"
    assert crossings.seen == EXCHANGED[is_training]
    functional.cross_entropy(logits, labels).backward()
    assert all(parameter.grad is not None for parameter in columns.columns[0].parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_and_another_device_compute_what_one_does(grouped: Network) -> None:
    images, labels = fed()
    whole = double(grouped)
    columns = two_columns(whole, ("cuda:0", "cuda:1" if torch.cuda.device_count() > 1 else "cpu"))
    logits = columns(images.double())
    assert str(logits.device) == "cuda:0"
    functional.cross_entropy(logits, labels.to("cuda:0")).backward()
    functional.cross_entropy(theirs := whole(images.double()), labels).backward()
    assert distance(logits.cpu(), theirs) <= EXACT
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        halves = [dict(column.named_parameters()).get(name) for column in columns.columns]
        ours = torch.cat([half.grad.cpu() for half in halves if half is not None and half.grad is not None])
        assert distance(ours, parameter.grad) <= EXACT, name


# Tables without two columns


def with_groups(groups: int) -> Callable[[Any], Any]:
    return lambda layer: msgspec.structs.replace(layer, groups=groups)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (ARCHITECTURES["paper"], "paper: norm1 normalises 1 groups of channels, but two columns need 2; "),
        (ARCHITECTURES["torchvision"], "torchvision: no convolution has 2 groups, so there are no columns; "),
        (ARCHITECTURES["single_tower"], "single_tower: no convolution has 2 groups, so there are no columns; "),
        (changed(TABLE, conv4=with_groups(4)), "original: conv4 has 4 groups, but two columns need 1 or 2; "),
        (
            changed(TABLE, norm2=with_groups(4)),
            "original: norm2 normalises 4 groups of channels, but two columns need ",
        ),
        (
            changed(TABLE, fc6=lambda layer: msgspec.structs.replace(layer, out_features=63)),
            "original: fc6 has 63 outputs, an odd number; ",
        ),
        (
            changed(TABLE, conv3=lambda layer: msgspec.structs.replace(layer, out_channels=49), conv4=with_groups(1)),
            "original: conv3 has 49 outputs, an odd number; ",
        ),
    ],
)
def test_a_table_that_is_not_two_columns_is_refused(table: Architecture, sentence: str) -> None:
    with torch.device("meta"):
        network = Network(table)
    with pytest.raises(UsageError) as caught:
        two_columns(network, HERE)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith("; use an architecture of two columns, such as `original`")


def test_a_table_made_with_two_columns_is_taken_whatever_its_name_and_classes() -> None:
    # `paper` with LRN windows within the columns, and an odd number of classes.
    table = changed(narrowed(ARCHITECTURES["paper"]), norm1=with_groups(2), norm2=with_groups(2)).with_num_classes(3)
    assert any(isinstance(layer, LocalNorm) for layer in table.layers)
    torch.manual_seed(0)
    network = Network(table).double().eval()
    images = torch.randn((2, 3, 227, 227), dtype=torch.float64)
    with torch.inference_mode():
        assert distance(two_columns(network, HERE)(images), network(images)) <= EXACT


# Training


ADAMW = msgspec.structs.replace(RECIPE, optimiser="adamw", learning_rate=1e-4, ema_decay=0.9, batch_size=6)


TWO_COLUMNS = placed("cpu", columns=True)


def train(out: Path, **options: object) -> Path:
    return train_run(memory_set(), TABLE, ADAMW, out, **options)  # type: ignore[arg-type]


def test_a_run_in_two_columns_learns_what_one_of_the_whole_network_does(tmp_path: Path) -> None:
    best = [
        load_weights(train(tmp_path / str(two), placement=placed("cpu", columns=two))).weights for two in (False, True)
    ]
    losses, other_losses = ([metrics.train_loss for metrics in record_of(weights).epochs] for weights in best)
    # float32 sums in a different order, over a few steps.
    assert losses == pytest.approx(other_losses, rel=1e-3)
    assert best[0].tensors.keys() == best[1].tensors.keys() == TABLE.tensor_shapes().keys()


def test_a_run_in_two_columns_goes_on_to_the_same_bits_and_only_in_two_columns(tmp_path: Path) -> None:
    train(tmp_path / "whole", placement=TWO_COLUMNS)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(out, placement=TWO_COLUMNS, pace=ALWAYS, observer=Observer(on_progress=at_step(3, interrupt)))
    with pytest.raises(UsageError, match=r"the run was started in two columns, but as one network was requested$"):
        train(out, resume=Resume.ANY_MACHINE)
    train(out, placement=TWO_COLUMNS, resume=Resume.SAME_MACHINE)
    states = [load_tensors(path / CHECKPOINT, load_checkpoint(path / CHECKPOINT)) for path in (out, tmp_path / "whole")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert network_in(out).tensors.keys() == TABLE.tensor_shapes().keys()


def test_the_second_column_is_on_the_next_gpu_or_beside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert second_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert second_device(torch.device("cuda")) == second_device(torch.device("cuda:0")) == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match="two columns need two GPUs, but torch finds 1"):
        second_device(torch.device("cuda"))


def test_what_cannot_be_trained_in_two_columns_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    across = narrowed(ARCHITECTURES["caffenet"])
    with pytest.raises(UsageError, match="two columns"):
        train_run(memory_set(), across, ADAMW, tmp_path / "run", placement=TWO_COLUMNS)
    with pytest.raises(UsageError, match="two columns train in one process, but torchrun started 2"):
        train(tmp_path / "run", placement=placed("cpu", columns=True, ranks=Ranks(rank=0, size=2)))
    assert list(tmp_path.iterdir()) == []
