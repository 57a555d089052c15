"""Every record is frozen, with keywords only; a dataclass has slots, and a file's record refuses unknown fields."""

import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module

import msgspec
import pytest

ROOMS = ("core", "export", "engines")

# Without a named flag. A working state is changed while it is used; a header of another version, or of another program,
# may have more fields.
OTHERS = {
    "core.bundle.store.StagedBundle": "slots, keywords",
    "core.mat_file.Unread": "frozen, slots",
    "core.mat_file._Reading": "slots, keywords",
    "core.model.tensor_file.Seal": "keywords",
    "core.model.tensor_file._Entry": "keywords, known fields",
    "core.records._Version": "keywords",
    "engines.proof.layers.Difference": "slots",
    "engines.remote._Answer": "frozen, keywords",
    "engines.remote._Metadata": "frozen, keywords",
    "engines.remote._Server": "frozen, keywords",
    "engines.remote._Tensor": "frozen, keywords",
    "engines.remote._Values": "frozen, keywords",
    "export.calibration.Histogram": "slots",
    "export.graph._Writer": "slots",
    "export.importing.readers.array_pickle.Array": "slots",
    "export.importing.readers.array_pickle._Machine": "slots, keywords",
    "export.importing.readers.array_pickle._Name": "frozen, slots",
    "export.importing.readers.array_pickle._Type": "slots",
    "export.importing.readers.caffe.digits._Info": "frozen, keywords",
    "export.importing.readers.caffe.digits._Job": "slots, keywords",
    "export.importing.readers.keras.contents.ArrayPlace": "frozen, keywords",
    "export.importing.readers.keras.contents.Contents": "frozen, keywords",
    "export.importing.readers.keras.contents.Listing": "frozen, keywords",
    "export.importing.readers.keras.layers._Walk": "slots, keywords",
    "export.importing.readers.matconvnet._Walk": "slots",
    "export.importing.readers.onnx.chain.Chain": "slots",
    "export.importing.readers.onnx.file.OwnFacts": "frozen, keywords",
    "export.importing.readers.onnx.graph.Graph": "slots",
    "export.importing.translate._Walk": "slots",
    "export.int8._Pass": "slots",
}


def modules_of(room: str) -> Iterator[str]:
    place = import_module(f"alexnet_deploy.{room}").__path__
    return (module.name for module in pkgutil.walk_packages(place, f"alexnet_deploy.{room}."))


def flags_of(record: type) -> str | None:
    """The flags that a record was declared with; None for another class."""
    if is_dataclass(record):
        flags = {
            "frozen": record.__dataclass_params__.frozen,  # type: ignore[attr-defined]
            "slots": "__slots__" in vars(record),
            "keywords": all(field.kw_only for field in fields(record)),
        }
    elif issubclass(record, msgspec.Struct):
        places = inspect.signature(record).parameters.values()
        flags = {
            "frozen": record.__struct_config__.frozen,
            "keywords": all(place.kind == inspect.Parameter.KEYWORD_ONLY for place in places),
            "known fields": record.__struct_config__.forbid_unknown_fields,
        }
    else:
        return None
    return ", ".join(flag for flag, is_set in flags.items() if is_set)


@pytest.mark.parametrize("room", ROOMS)
def test_records_are_declared_as_the_rules_say(room: str) -> None:
    found = {}
    for module in modules_of(room):
        for value in vars(import_module(module)).values():
            if isinstance(value, type) and value.__module__ == module and (flags := flags_of(value)) is not None:
                found[f"{module.removeprefix('alexnet_deploy.')}.{value.__name__}"] = flags
    assert len(found) > 10
    usual = ("frozen, slots, keywords", "frozen, keywords, known fields")
    others = {name: flags for name, flags in OTHERS.items() if name.startswith(f"{room}.")}
    assert {name: flags for name, flags in found.items() if flags not in usual} == others
