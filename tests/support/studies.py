"""Studies of a second: a table of a few weights, and a study of two variants."""

from pathlib import Path

from alexnet_deploy.pipeline.study.definition import Study, study_by_name
from alexnet_deploy.pipeline.study.plan import StudyRequest
from alexnet_deploy.train.pack.format import PackHeader

TABLE = """name = "least"
input_size = 224
layers = [
    { type = "average_pool", name = "shrink", kernel = 28, stride = 28 },
    { type = "conv", name = "conv1", out_channels = 4, kernel = 3, padding = [1, 1, 1, 1] },
    { type = "relu", name = "relu1" },
    { type = "lrn", name = "norm1", size = 3, alpha = 1e-3, beta = 0.75, k = 1.0 },
    { type = "max_pool", name = "pool1", kernel = 3, stride = 2, padding = [0, 0, 1, 1] },
    { type = "conv", name = "conv2", out_channels = 8, kernel = 3, padding = [1, 1, 1, 1], groups = 2 },
    { type = "relu", name = "relu2" },
    { type = "flatten", name = "flatten" },
    { type = "linear", name = "fc3", out_features = 8 },
    { type = "relu", name = "relu3" },
    { type = "dropout", name = "drop3", probability = 0.5 },
    { type = "linear", name = "fc4", out_features = 2 },
]
"""

STUDY = """claim = "Local response normalisation helps."
source = "a test"
figure = "1 point"
architecture = "least.toml"
recipe = "folder"
fields = { epochs = 2, batch_size = 4, learning_rate = 0.002 }

[[variants]]
name = "no-lrn"
label = "without it"
expect = "lower"
remove = ["lrn"]
"""


def write_study(folder: Path, text: str = STUDY, name: str = "mine") -> Path:
    (folder / "least.toml").write_text(TABLE)
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def study_in(folder: Path, text: str) -> Study:
    return study_by_name(str(write_study(folder, text)))


def request_of(study: Path, data: Path, **changes: object) -> StudyRequest:
    given = {"study": str(study), "data": data, "settings": {}, "seeds": 2, **changes}
    return StudyRequest(**given)  # type: ignore[arg-type]


def pack_header() -> PackHeader:
    """Return the header of 24 training and 8 validation images of two classes."""
    return PackHeader(
        format_version=1,
        labels=("blue", "red"),
        num_train=24,
        num_validation=8,
        resize="shorter-side",
        mean=(0.0, 0.0, 0.0),
        covariance=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        source="data",
        source_sha256="0" * 64,
        excluded={},
        chunk_images=32,
        chunks_sha256=("0" * 64,),
        labels_sha256="0" * 64,
        tools={},
    )
