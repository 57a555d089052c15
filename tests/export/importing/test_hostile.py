"""Files that were made to harm: one sentence, nothing run, and no more memory than the file and 200 MB."""

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from commands import HANGS_AFTER_S, Run
from foreign_caffe import digits_files, write_tar
from foreign_keras import Made, config_of, keras_layers, write_archive, write_h5
from networks import narrowed, separating_weights
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from alexnet_deploy.core.model.family import ARCHITECTURES

KERAS = separating_weights(narrowed(ARCHITECTURES["single_tower"]))

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
    most = lambda: max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    try:
        recognise(complete(find_format(Path(name)).reader.read(Path(name)), Overrides()), Overrides())
    except AlexNetDeployError as error:
        print(1024 * (most() - before), error, flush=True)
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


def _keras(path: Path, change: Callable[[h5py.File], None]) -> None:
    """A small model of Keras 2, changed."""
    write_h5(path, keras_layers(KERAS, 2), 2)
    with h5py.File(path, "r+") as file:
        change(file)


def _external_link(path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["model_weights/conv1"]
        file["model_weights/conv1"] = h5py.ExternalLink("/etc/passwd", "/")

    _keras(path, change)


def _soft_link(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["model_weights/again"] = h5py.SoftLink("/model_weights")

    _keras(path, change)


def _groups_in_a_circle(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["model_weights/conv1/again"] = file["model_weights"]

    _keras(path, change)


def _many_groups(path: Path) -> None:
    def change(file: h5py.File) -> None:
        for number in range(6000):
            file.create_group(f"a/{number}")

    _keras(path, change)


def _array(path: Path, create: Callable[[h5py.Group], object]) -> None:
    """Replace the first kernel."""

    def change(file: h5py.File) -> None:
        group = file["model_weights/conv1/conv1"]
        del group["kernel:0"]
        create(group)

    _keras(path, change)


def _values_in_another_file(path: Path) -> None:
    _array(
        path,
        lambda group: group.create_dataset(
            "kernel:0", (11, 11, 3, 12), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        ),
    )


def _virtual_array(path: Path) -> None:
    layout = h5py.VirtualLayout((11, 11, 3, 12), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (11, 11, 3, 12))
    _array(path, lambda group: group.create_virtual_dataset("kernel:0", layout))


def _compressed_array(path: Path) -> None:
    zeros = np.zeros((11, 11, 3, 12), np.float32)
    _array(path, lambda group: group.create_dataset("kernel:0", data=zeros, compression="gzip"))


def _array_of_a_huge_shape(path: Path) -> None:
    _array(path, lambda group: group.create_dataset("kernel:0", (1 << 20, 1 << 20, 3, 12), "f4"))


def _array_that_was_never_written(path: Path) -> None:
    _array(path, lambda group: group.create_dataset("kernel:0", (11, 11, 3, 12), "f4"))


def _array_of_texts(path: Path) -> None:
    _array(path, lambda group: group.create_dataset("kernel:0", data=np.full((11, 11, 3, 12), b"a")))


def _array_of_floats_of_another_kind(path: Path) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    _array(
        path,
        lambda group: h5py.h5d.create(group.id, b"kernel:0", kind, h5py.h5s.create_simple((11, 11, 3, 12))).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((11, 11, 3, 12), np.float32)
        ),
    )


def _arrays_that_share_their_bytes(path: Path) -> None:
    made = keras_layers(KERAS, 2)
    write_h5(path, made, 2)
    copies = [Made("Dense", f"d{number}", {"use_bias": True}) for number in range(50)]
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(config_of([*made, *copies], 2))
        for one in copies:
            file[f"model_weights/{one.name}"] = file["model_weights/fc6"]


def _names_that_are_numbers(path: Path) -> None:
    _keras(path, lambda file: file["model_weights/conv1"].attrs.create("weight_names", np.arange(4.0)))


def _truncated_hdf5(path: Path) -> None:
    _keras(path, lambda file: None)
    path.write_bytes(path.read_bytes()[:-5000])


def _config_of_brackets(path: Path) -> None:
    _keras(path, lambda file: file.attrs.create("model_config", '{"config": ' + "[" * 60_000))


def _code_in_a_keras_config(path: Path) -> None:
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None, "closure": None}}
    made = keras_layers(KERAS, 3)
    made.insert(2, Made("Lambda", "run", {"function": code}))
    write_archive(path, made)


def _pickle_in_a_keras_archive(path: Path) -> None:
    write_archive(path, keras_layers(KERAS, 3), more={"optimizer.pkl": pickle.dumps(Runs(path.with_name("mark")))})


def _pickle_for_keras_weights(path: Path) -> None:
    write_archive(path, keras_layers(KERAS, 3), weights=pickle.dumps(Runs(path.with_name("mark"))))


def _keras_zip_bomb(path: Path) -> None:
    write_archive(path, keras_layers(KERAS, 3), weights=bytes(1 << 28), compression=zipfile.ZIP_DEFLATED)


def _keras_entries_that_overlap(path: Path) -> None:
    write_archive(path, keras_layers(KERAS, 3))
    data = bytearray(path.read_bytes())
    # The weights' entry begins where the config's does.
    config, weights = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4), data.rindex(b"PK\x01\x02")
    data[weights + 42 : weights + 46] = data[config + 42 : config + 46]
    path.write_bytes(data)


def _zip_of_a_million_entries(path: Path) -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *[0] * 16) + b"a"
    entry = entry[:28] + b"\x01\x00" + entry[30:]
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 30, 0)
    path.write_bytes(b"PK\x03\x04".ljust(30, b"\0") + directory + end)


def _wrong_checksum(path: Path) -> None:
    write_archive(path, keras_layers(KERAS, 3))
    data = bytearray(path.read_bytes())
    place = data.index(b"\x89HDF") + 20_000
    data[place] ^= 1
    path.write_bytes(data)


def _digits(path: Path, **changes: bytes) -> None:
    files = digits_files(KERAS, path.parent)
    write_tar(path, files | {name.replace("_", "."): content for name, content in changes.items()})


def _digits_bomb(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        member = tarfile.TarInfo("snapshot_iter_1.caffemodel")
        member.size = 1 << 40
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1 << 20))


def _digits_bomb_of_labels(path: Path) -> None:
    _digits(path, labels_txt=b"a\n" * (20 << 20))


def _digits_that_ends_early(path: Path) -> None:
    _digits(path)
    path.write_bytes(path.read_bytes()[:-5000])


def _text_within_text(path: Path) -> None:
    _digits(path, deploy_prototxt=b"a {" * 50_000)


def _mean_of_a_huge_shape(path: Path) -> None:
    _digits(path, mean_binaryproto=b"\x08\x01\x10\x03\x18\xff\xff\xff\x7f\x20\xff\xff\xff\x7f")


def _links_in_a_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in ("deploy.prototxt", "a.caffemodel", "labels.txt"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)


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
    "an external link": (_external_link, "model_weights/conv1: is a link to another file, which is not followed"),
    "a soft link": (_soft_link, "model_weights/again: is a link to another place, which is not followed"),
    "groups in a circle": (_groups_in_a_circle, "groups within one another"),
    "6,000 groups": (_many_groups, "has more than 5,000 groups and arrays"),
    "values in another file": (_values_in_another_file, "kernel:0: keeps its values in another file, which is not"),
    "a virtual array": (_virtual_array, "kernel:0: is put together from other arrays"),
    "a compressed array": (_compressed_array, "kernel:0: is compressed or in pieces, which Keras does not do"),
    "an array of a huge shape": (_array_of_a_huge_shape, "conv1: has a kernel of shape (1048576, 1048576, 3, 12)"),
    "an array that was never written": (_array_that_was_never_written, "kernel:0: has no values"),
    "an array of texts": (_array_of_texts, "kernel:0: holds values of type |S1, where float32 is needed"),
    "floats of another kind": (_array_of_floats_of_another_kind, "kernel:0: holds values of type"),
    "arrays that share their bytes": (_arrays_that_share_their_bytes, "or overlap others"),
    "names that are numbers": (_names_that_are_numbers, "its weight_names is not a text"),
    "truncated HDF5": (_truncated_hdf5, "is a damaged HDF5 file: "),
    "a config of brackets": (_config_of_brackets, "its config is damaged: it is nested too deeply"),
    "code in a Keras config": (_code_in_a_keras_config, "run: is a Lambda layer, which is code, and is not run"),
    "a pickle in a .keras": (_pickle_in_a_keras_archive, "it also holds 'optimizer.pkl', which is not opened"),
    "a pickle for weights": (_pickle_for_keras_weights, "is a damaged HDF5 file: "),
    "a bomb in .keras": (_keras_zip_bomb, "is not an archive of Keras, or is damaged: metadata.json is compressed"),
    "entries that overlap": (_keras_entries_that_overlap, "its entries overlap"),
    "a million entries": (_zip_of_a_million_entries, "unknown format"),
    "a wrong checksum": (_wrong_checksum, "the checksum of model.weights.h5 does not match its bytes"),
    "a bomb of DIGITS": (_digits_bomb, "unpacks to more than"),
    "a bomb of labels": (_digits_bomb_of_labels, "the limit is 4,194,304"),
    "DIGITS that ends early": (_digits_that_ends_early, "if it is damaged, download it again"),
    "text within text": (_text_within_text, "deploy.prototxt is damaged, or is not a network's text"),
    "a mean of a huge shape": (_mean_of_a_huge_shape, "the image has the shape (1, 3, 268435455, 268435455)"),
    "links in a tar": (_links_in_a_tar, "is not a model of DIGITS: deploy.prototxt is missing"),
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
    command = [sys.executable, "-P", "-c", MEMORY, *paths.values()]
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


LIMITED = """
import sys
from alexnet_deploy.export.importing.readers.keras.hdf5_process import limit
limit()
try:
    {tried}
except (MemoryError, OSError) as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce a limit of memory")
@pytest.mark.parametrize(
    ("tried", "error"), [("bytearray(200 << 20)", "MemoryError"), ("open('/dev/null')", "OSError"), ("1", "")]
)
def test_the_process_that_lists_hdf5_files_gets_no_memory_and_opens_no_file(tried: str, error: str) -> None:
    command = [sys.executable, "-P", "-c", LIMITED.format(tried=tried)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=HANGS_AFTER_S, text=True)
    assert (done.stdout.strip(), done.stderr) == (error, "")
