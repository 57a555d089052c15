"""EngineInfo.arithmetic matches what the backend's library reports for its layers."""

from pathlib import Path

import openvino
import pytest
from networks import shipped

from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.engine import open_engine


@pytest.mark.parametrize(
    ("precision", "numbers", "words"),
    [("fp32", {"f32"}, "float32"), ("fp16", {"f32"}, "float32"), ("int8", {"i8", "u8"}, "int8 products")],
)
def test_openvino_multiplies_in_what_it_says(
    precision: Precision, numbers: set[str], words: str, sure: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model = openvino.Core.compile_model
    compiled: list[openvino.CompiledModel] = []

    def keep(*arguments: object) -> openvino.CompiledModel:
        compiled.append(compile_model(*arguments))
        return compiled[-1]

    _, bundle = shipped(sure, tmp_path, precision=precision)
    monkeypatch.setattr(openvino.Core, "compile_model", keep)
    with open_engine(bundle, "openvino") as engine:
        assert engine.info.arithmetic == words
    layers = [operation.get_rt_info() for operation in compiled[-1].get_runtime_model().get_ordered_ops()]
    products = [layer for layer in layers if layer["layerType"].value in ("Convolution", "FullyConnected")]
    assert len(products) == 8
    assert {layer["runtimePrecision"].value for layer in products} <= numbers
