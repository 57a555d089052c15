"""A Keras model's config: the chain of its layers in every version, and what is refused."""

import json

import pytest

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer, read_config
from alexnet_deploy.export.importing.readers.keras.contents import KerasError

Entry = dict[str, object]


def entry(name: str, kind: str = "ReLU", **more: object) -> Entry:
    return {"class_name": kind, "config": {"name": name}, **more}


def node(*names: str) -> list[object]:
    """The calls of a layer in Keras 2."""
    return [[[name, 0, 0, {}] for name in names]]


def functional(*layers: Entry, **more: object) -> str:
    return json.dumps({"class_name": "Functional", "config": {"layers": layers, **more}})


def sequential(*layers: object) -> str:
    return json.dumps({"class_name": "Sequential", "config": {"layers": layers}})


def names(text: str) -> list[str]:
    return [layer.name for layer in read_config(text)]


def refused(text: str) -> str:
    with pytest.raises(KerasError) as caught:
        read_config(text)
    return str(caught.value)


def test_a_sequential_model_is_read_in_its_order() -> None:
    layers = read_config(sequential(entry("a"), entry("b", "Conv2D"), entry("c", "Conv2D") | {"name": "d"}))
    assert layers == (
        KerasLayer(kind="ReLU", name="a", stored_name="re_lu", settings={"name": "a"}, call={}),
        KerasLayer(kind="Conv2D", name="b", stored_name="conv2d", settings={"name": "b"}, call={}),
        KerasLayer(kind="Conv2D", name="d", stored_name="conv2d_1", settings={"name": "c"}, call={}),
    )
    # As Keras 1 has it, with the list alone.
    assert names(json.dumps({"class_name": "Sequential", "config": [entry("a"), entry("b")]})) == ["a", "b"]
    unnamed = {"class_name": "ReLU", "config": {}}
    assert names(sequential(unnamed, entry("b"), {"class_name": "ReLU", "config": {"name": 3}})) == [
        "layer 1",
        "b",
        "layer 3",
    ]


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("Conv2D", "conv2d"),
        ("MaxPooling2D", "max_pooling2d"),
        ("InputLayer", "input_layer"),
        ("BatchNormalization", "batch_normalization"),
        ("TFOpLambda", "tf_op_lambda"),
        ("Dense", "dense"),
        ("ReLU", "re_lu"),
        ("a.B-c", "a_bc"),
    ],
)
def test_archives_call_layers_by_their_class(kind: str, stored: str) -> None:
    (layer, again) = read_config(sequential(entry("a", kind), entry("b", kind)))
    assert layer.stored_name.replace("_", "") == stored.replace("_", "")
    assert again.stored_name == f"{layer.stored_name}_1"
    if "." not in kind:
        assert layer.stored_name == stored


def test_settings_have_names_of_several_versions() -> None:
    (layer,) = read_config(sequential({"class_name": "Dropout", "config": {"p": 0.5, "rate": None}}))
    assert layer.get("rate", "p") is None
    assert layer.get("p", "rate") == 0.5
    assert layer.get("absent", "p") == 0.5
    assert layer.get("absent") is None


def test_a_functional_chain_is_read_in_the_order_of_its_calls() -> None:
    layers = (
        entry("c", inbound_nodes=node("b")),
        entry("a", "InputLayer", inbound_nodes=[]),
        entry("b", inbound_nodes=node("a")),
    )
    assert names(functional(*layers)) == ["a", "b", "c"]
    for outputs in (["c", 0, 0], [["c", 0, 0]], [[["c", 0, 0]]], [], None):
        assert names(functional(*layers, output_layers=outputs)) == ["a", "b", "c"]
    assert refused(functional(*layers, output_layers=[["b", 0, 0]])) == (
        "its output is b, which is not its last layer, c"
    )
    words = "its network has 2 outputs, where one is needed"
    assert refused(functional(*layers, output_layers=[["c", 0, 0], ["b", 0, 0]])) == words
    model = {"class_name": "Model", "config": {"layers": layers}}
    assert names(json.dumps(model)) == ["a", "b", "c"]


def tensor(name: str) -> Entry:
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}


def test_calls_of_all_versions_keep_their_arguments() -> None:
    first = entry("a", "InputLayer")
    calls: list[list[object]] = [
        [["a", 0, 0, {"alpha": 2}]],
        [[["a", 0, 0, {"alpha": 2}]]],
        [{"args": [tensor("a")], "kwargs": {"alpha": 2}}],
    ]
    for call in calls:
        (_, layer) = read_config(functional(first, entry("b", inbound_nodes=call)))
        assert (layer.name, layer.call) == ("b", {"alpha": 2})
    (_, bare) = read_config(functional(first, entry("b", inbound_nodes=[[["a", 0, 0]]])))
    assert bare.call == {}


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([["a", 0, 0], ["a", 0, 0]], "b: is called more than once; only a chain of layers can be imported"),
        ("a", "b: is called more than once; only a chain of layers can be imported"),
        ([[["a", 0, 0], ["a", 0, 0]]], "b: takes 2 inputs; only a chain of layers can be imported"),
        ([[[3, 0, 0]]], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([[]], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([[["a", 0, 0, [1]]]], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([{"args": [tensor("a"), tensor("a")], "kwargs": {}}], "b: takes 2 inputs; only a chain of layers can be"),
        ([{"args": [], "kwargs": {}}], "b: takes 0 inputs; only a chain of layers can be imported"),
        ([{"args": None, "kwargs": {}}], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([{"args": [{"config": {"keras_history": []}}], "kwargs": {}}], "b: takes 1 inputs; only a chain of layers"),
        ([{"args": [{"config": 3}], "kwargs": {}}], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([{"args": [3], "kwargs": {}}], "b: takes 1 inputs; only a chain of layers can be imported"),
        ([{"args": [tensor("a")], "kwargs": None}], "b: takes 1 inputs; only a chain of layers can be imported"),
    ],
)
def test_a_call_that_is_no_link_of_a_chain_is_refused(calls: object, words: str) -> None:
    assert refused(functional(entry("a"), entry("b", inbound_nodes=calls))).startswith(words)


def test_a_network_that_is_no_chain_is_refused() -> None:
    one, two = entry("a"), entry("b", inbound_nodes=node("a"))
    assert refused(functional(one, entry("b"))) == "its network has 2 inputs, where one is needed"
    assert refused(functional(two)) == "its network has 0 inputs, where one is needed"
    branch = entry("c", inbound_nodes=node("a"))
    assert refused(functional(one, two, branch)) == "c: is the second layer after a; only a chain of layers"
    lost = entry("c", inbound_nodes=node("z"))
    assert refused(functional(one, two, lost)) == "c: is not on the way from the image to the class scores"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "its config is damaged: "),
        ("[]", "its config is damaged: "),
        ('{"class_name": "Other"}', "holds a Other; only Sequential and Functional models tell their layers"),
        ('{"class_name": "Sequential"}', "its config has no list of layers, or too long a list"),
        (sequential(), "its config has no list of layers, or too long a list"),
        (sequential(*[entry(f"a{n}") for n in range(201)]), "its config has no list of layers, or too long a list"),
        (sequential(entry("a"), entry("a")), "two layers of its config are called a"),
        (sequential(3), "layer 1 of its config has no class and settings"),
        (sequential(entry("a"), {"class_name": "ReLU"}), "layer 2 of its config has no class and settings"),
        (sequential({"class_name": 3, "config": {}}), "layer 1 of its config has no class and settings"),
        (sequential(entry("a", "Lambda")), "a: is a Lambda layer, which is code, and is not run; replace it by layers"),
        (sequential(entry("a", "Functional")), "a: is a model within the model, which is not supported"),
        (sequential(entry("a", "Model")), "a: is a model within the model, which is not supported"),
        (
            sequential(entry("a", "X", module="mine")),
            "a: is a X of a program of its own, whose code is not in the file",
        ),
        (sequential(entry("a", "X", module="kerasx")), "a: is a X of a program of its own, whose code is not in the f"),
        (sequential(entry("a", "X", registered_name="my>X")), "a: is a X of a program of its own, whose code is not"),
    ],
)
def test_a_config_that_tells_no_layers_is_refused(text: str, words: str) -> None:
    assert refused(text).startswith(words)


def test_configs_at_the_limits_are_read() -> None:
    assert len(read_config(sequential(*[entry(f"a{n}") for n in range(200)]))) == 200
    for more in ({"module": "keras"}, {"module": "keras.layers"}, {"module": None}, {"registered_name": "X"}):
        assert names(sequential(entry("a", "X", **more))) == ["a"]
