"""Files that were made to harm: one sentence, nothing run, and no more memory than the file and 200 MB."""

import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import HANGS_AFTER_S, Run
from onnx import TensorProto, helper, numpy_helper
from torch import nn

# A process for each file, forked from one that has imported everything.
MEMORY = """
import os, resource, sys
from pathlib import Path
from alexnet_deploy.core.errors import AlexNetDeployError
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.recognise import recognise
from alexnet_deploy.export.importing.registry import find_format
for name in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        recognise(complete(find_format(Path(name)).reader.read(Path(name)), Overrides()), Overrides())
    except AlexNetDeployError as error:
        print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), error, flush=True)
    os._exit(0)
"""


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def _code_in_a_zip(path: Path) -> None:
    torch.save({"state_dict": {"a": Runs(path.with_name("mark"))}}, path)


def _code_in_legacy(path: Path) -> None:
    torch.save({"a": Runs(path.with_name("mark"))}, path, _use_new_zipfile_serialization=False)


def _code_in_a_bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Runs(path.with_name("mark"))}))


def _code_in_protocol_4(path: Path) -> None:
    torch.save({"a": Runs(path.with_name("mark"))}, path, pickle_protocol=4)


def _whole_model(path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def _old_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), BytesIO())


def _zip(path: Path, pickled: bytes, *, compression: int = zipfile.ZIP_STORED, storage: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", "3\n")


def _compressed_storage(path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    _zip(path, pickled, compression=zipfile.ZIP_DEFLATED, storage=bytes(1 << 28))


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def _bytes_of_eight_gigabytes(path: Path) -> None:
    call = _global("__builtin__.bytearray") + b"\x8a\x05" + (8 << 30).to_bytes(5, "little") + b"\x85R"
    _zip(path, b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s.")


def _tensor_of_one_value_stretched(path: Path) -> None:
    torch.save({"a.weight": torch.zeros(1).expand(4096, 1 << 20)}, path)


def _storage_that_is_not_there(path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x04N", b"J\xff\xff\xff\x7fN", 1))


def _dictionary_of_lists(path: Path) -> None:
    torch.save({"state_dict": OrderedDict(a=[1, 2, 3])}, path)


def _truncated_checkpoint(path: Path) -> None:
    torch.save({"a.weight": torch.zeros(100_000)}, path)
    path.write_bytes(path.read_bytes()[:-1000])


def _safetensors(path: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _huge_shape(path: Path) -> None:
    _safetensors(path, {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})


def _header_longer_than_the_file(path: Path) -> None:
    path.write_bytes((900_000).to_bytes(8, "little") + b'{"a":')


def _header_of_many_entries(path: Path) -> None:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    _safetensors(path, {f"{number:x}": entry for number in range(50_000)})


def _model(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 227, 227])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    return helper.make_model(graph)


def _conv(*constants: onnx.TensorProto) -> bytes:
    return _model([helper.make_node("Conv", ["x", "w"], ["y"], "c")], *constants).SerializeToString()


def _external_data(path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros((1, 3, 11, 11), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    path.write_bytes(_conv(tensor))


def _truncated_graph(path: Path) -> None:
    path.write_bytes(_conv(numpy_helper.from_array(np.zeros((8, 3, 11, 11), np.float32), "w"))[:-100])


def _constant_of_another_shape(path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros((8, 3, 11, 11), np.float32), "w")
    tensor.dims[0] = 1 << 20
    path.write_bytes(_conv(tensor))


def _constant_of_a_huge_shape(path: Path) -> None:
    tensor = TensorProto(name="w", dims=[1 << 62] * 4, data_type=TensorProto.FLOAT)
    path.write_bytes(_conv(tensor))


def _endless_constant(path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 3, 1 << 10, 1 << 10]), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"], "c")]
    path.write_bytes(_model(nodes, shape).SerializeToString())


def _millions_of_empty_nodes(path: Path) -> None:
    nodes = b"\x0a\x00" * 20_000_000
    path.write_bytes(b"\x08\x08\x3a" + _varint(len(nodes)) + nodes)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _graphs_within_graphs(path: Path) -> None:
    inner = b""
    for _ in range(2000):
        attribute = b"\x32" + _varint(len(inner)) + inner
        node = b"\x2a" + _varint(len(attribute)) + attribute
        inner = b"\x0a" + _varint(len(node)) + node
    path.write_bytes(b"\x08\x08\x3a" + _varint(len(inner)) + inner)


def _length_beyond_the_file(path: Path) -> None:
    path.write_bytes(b"\x08\x08\x3a" + _varint(1 << 62))


def _packed_numbers(path: Path) -> None:
    # A byte each in the file, and eight in memory.
    numbers = bytes(40_000_000)
    tensor = b"\x3a" + _varint(len(numbers)) + numbers
    graph = b"\x2a" + _varint(len(tensor)) + tensor
    path.write_bytes(b"\x08\x08\x3a" + _varint(len(graph)) + graph)


def _nodes_in_a_circle(path: Path) -> None:
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    path.write_bytes(_model(nodes).SerializeToString())


def _functions(path: Path) -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])])
    model.functions.append(helper.make_function("d", "f", ["a"], ["b"], [], [helper.make_opsetid("", 18)]))
    path.write_bytes(model.SerializeToString())


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "code in a zip": (_code_in_a_zip, "holds posix.system, which is not a tensor and is not loaded"),
    "code in legacy": (_code_in_legacy, "holds posix.system, which is not a tensor and is not loaded"),
    "code in a bare pickle": (_code_in_a_bare_pickle, "this is a bare pickle, which is not opened"),
    "code in protocol 4": (_code_in_protocol_4, "is not of pickle protocol 2, as torch.save writes it"),
    "a whole model": (_whole_model, "holds torch.nn.modules.container.Sequential, which is not a tensor"),
    "TorchScript": (_script, "is a TorchScript program, which is not run"),
    "a tar of torch 0.1": (_old_tar, "is a tar archive, as torch 0.1 wrote them"),
    "a zip bomb": (_compressed_storage, "is compressed, which torch.save does not do"),
    "bytearray": (_bytes_of_eight_gigabytes, "holds __builtin__.bytearray, which is not a tensor"),
    "one value stretched": (_tensor_of_one_value_stretched, "a.weight says it has 4,294,967,296 values"),
    "a storage that is not there": (_storage_that_is_not_there, "not a torch checkpoint, or a damaged one"),
    "no tensors": (_dictionary_of_lists, "holds no state dict, expected one"),
    "truncated checkpoint": (_truncated_checkpoint, "unknown format"),
    "safetensors of a huge shape": (_huge_shape, "not a safetensors file, or a damaged one"),
    "a header longer than the file": (_header_longer_than_the_file, "not a safetensors file, or a damaged one"),
    "50,000 tensors": (_header_of_many_entries, "its header has"),
    "external data": (_external_data, "has weights in another file (external data), which is not opened"),
    "truncated graph": (_truncated_graph, "not an ONNX file, or a damaged one"),
    "a constant of another shape": (_constant_of_another_shape, "has 2,904 values for the shape"),
    "a constant of a huge shape": (_constant_of_a_huge_shape, "invalid tensor shape"),
    "an endless constant": (_endless_constant, "invalid tensor shape (1048576, 3, 1024, 1024)"),
    "20 million nodes": (_millions_of_empty_nodes, "beside its tensors, too many for an AlexNet-like network"),
    "graphs within graphs": (_graphs_within_graphs, "has a subgraph within a subgraph"),
    "a length beyond the file": (_length_beyond_the_file, "a field is longer than the message that holds it"),
    "packed numbers": (_packed_numbers, "beside its tensors, too many for an AlexNet-like network"),
    "nodes in a circle": (_nodes_in_a_circle, "reads b, which no earlier node writes"),
    "functions": (_functions, "has functions of its own"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence_and_nothing_runs(name: str, run: Run, tmp_path: Path) -> None:
    make, sentence = HOSTILE[name]
    make(tmp_path / "file")
    said = run("import", "file").refused(3)
    assert said.startswith("file: ")
    assert sentence in said
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_hostile_file_takes_little_memory(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{number:02}" for number, name in enumerate(HOSTILE)}
    for name, path in paths.items():
        HOSTILE[name][0](path)
    command = [sys.executable, "-c", MEMORY, *paths.values()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=HANGS_AFTER_S, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(HOSTILE)
    for (name, path), line in zip(paths.items(), lines, strict=True):
        grown, _, said = line.partition(" ")
        assert said.startswith(f"{path}: "), name
        assert int(grown) <= path.stat().st_size + 200_000_000, name


def test_the_payload_of_these_tests_runs_where_nothing_stops_it(tmp_path: Path) -> None:
    _code_in_a_bare_pickle(tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "mark").exists()
