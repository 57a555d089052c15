"""A model of an inference server as an engine: any server of the Open Inference Protocol v2 over HTTP.

So a server is proved as a backend is: its answers to the golden images are compared with the bundle's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.core.inference_protocol import HEADER_LENGTH, pack_elements
from alexnet_deploy.engines.engine import Engine, EngineInfo

_IMAGES_AT_ONCE = 8

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A model on a server."""

    url: str
    """Of the server, such as http://localhost:8000."""
    name: str
    version: str | None = None
    """None for the server's choice."""
    token: str | None = None
    """A bearer token; None for none."""
    timeout_s: float = 60.0
    """Longest time that the server may take for an answer."""


class _Tensor(Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Metadata(Struct, frozen=True, kw_only=True):
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    platform: str = ""


class _Server(Struct, frozen=True, kw_only=True):
    name: str = "a server"
    version: str = ""
    extensions: tuple[str, ...] = ()


class _Values(Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, object] = {}
    data: tuple[float, ...] = ()


class _Answer(Struct, frozen=True, kw_only=True):
    outputs: tuple[_Values, ...]


class RemoteClient:
    """Asks one model of a server; every problem is a BackendError that names the server."""

    def __init__(self, model: RemoteModel) -> None:
        """Ask the server what it is and what the model takes."""
        headers = {} if model.token is None else {"Authorization": f"Bearer {model.token}"}
        self._url = model.url.rstrip("/")
        self._http = httpx.Client(headers=headers, timeout=model.timeout_s, follow_redirects=False)
        try:
            self.server = self._get("/v2", _Server)
            version = "" if model.version is None else f"/versions/{quote(model.version, safe='')}"
            self._model = f"/v2/models/{quote(model.name, safe='')}{version}"
            self._metadata = self._get(self._model, _Metadata)
        except BaseException:
            self._http.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def takes_files(self) -> bool:
        """Whether the model has an input for the bytes of image files: BYTES (N) or (N, 1)."""
        return self._files_input is not None

    @property
    def takes_pixels(self) -> bool:
        """Whether the model has an input `images`."""
        return any(tensor.name == IMAGES for tensor in self._metadata.inputs)

    @property
    def _files_input(self) -> _Tensor | None:
        texts = (tensor for tensor in self._metadata.inputs if tensor.datatype == "BYTES")
        return next((tensor for tensor in texts if tensor.shape[1:] in ((), (1,))), None)

    def refuse_other_contract(self, bundle: Bundle) -> None:
        """Raise BackendError unless the model takes the bundle's input, or image files, and returns its output."""
        contract = bundle.manifest.contract
        parts = [(contract.output, self._metadata.outputs, "FP32")]
        if self.takes_pixels or not self.takes_files:
            parts.append((contract.input, self._metadata.inputs, "UINT8"))
        for wanted, found, datatype in parts:
            shape = wanted.shape[1:]
            if not any(
                (tensor.name, tensor.datatype, tensor.shape[1:]) == (wanted.name, datatype, shape) for tensor in found
            ):
                raise BackendError(
                    f"{self._url}{self._model}: has no tensor {wanted.name}, {datatype} {('N', *shape)}; it has "
                    f"{', '.join(f'{tensor.name}, {tensor.datatype} {list(tensor.shape)}' for tensor in found)}"
                )

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """Return the model's output for images, uint8 (N, 256, 256, 3), float32."""
        return self._ask(IMAGES, "UINT8", images.shape, images.tobytes(), images.ravel().tolist, output)

    def run_files(self, files: Sequence[bytes], output: str) -> np.ndarray:
        """Return the model's output for image files, which the server decodes."""
        tensor = self._files_input
        assert tensor is not None, "the caller has asked whether it takes files"
        blob = pack_elements(files)
        return self._ask(tensor.name, "BYTES", (len(files), *tensor.shape[1:]), blob, None, output)

    def _ask(
        self,
        name: str,
        datatype: str,
        shape: tuple[int, ...],
        blob: bytes,
        numbers: Callable[[], list[int]] | None,
        output: str,
    ) -> np.ndarray:
        tensor: dict[str, object] = {"name": name, "datatype": datatype, "shape": shape}
        if numbers is None or "binary_tensor_data" in self.server.extensions:
            is_binary = True
            tensor["parameters"] = {"binary_data_size": len(blob)}
        else:
            is_binary = False
            tensor["data"] = numbers()
        asked: dict[str, object] = {"inputs": [tensor]}
        wanted: dict[str, object] = {"name": output}
        if is_binary:
            wanted["parameters"] = {"binary_data": True}
        head = msgspec.json.encode({**asked, "outputs": [wanted]})
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))} if is_binary else {}
        response = self._send("POST", f"{self._model}/infer", head + blob if is_binary else head, headers)
        return self._values(response, output)

    def _values(self, response: httpx.Response, output: str) -> np.ndarray:
        body, length = response.content, response.headers.get(HEADER_LENGTH, "")
        end = int(length) if length.isascii() and length.isdigit() else len(body)
        answer = self._decode(body[:end], _Answer, f"{self._model}/infer")
        values = next((found for found in answer.outputs if found.name == output), None)
        if values is None or values.datatype != "FP32":
            raise BackendError(f"{self._url}{self._model}: its answer has no output {output}, FP32")
        is_binary = "binary_data_size" in values.parameters
        found = body[end:] if is_binary else np.array(values.data, "<f4").tobytes()
        if len(found) != 4 * math.prod(values.shape):
            raise BackendError(f"{self._url}{self._model}: {len(found):,} bytes do not fill its shape {values.shape}")
        return np.frombuffer(found, "<f4").reshape(values.shape)

    def _get(self, path: str, kind: type[Record]) -> Record:
        return self._decode(self._send("GET", path, b"", {}).content, kind, path)

    def _decode(self, data: bytes, kind: type[Record], path: str) -> Record:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BackendError(
                f"{self._url}{path}: its answer is not of the Open Inference Protocol v2: {error}"
            ) from error

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            response = self._http.request(method, self._url + path, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendError(f"{self._url}: cannot be asked: {error or type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            said = " ".join(response.text[:200].split())
            raise BackendError(f"{self._url}{path}: answered {response.status_code}: {said}")
        return response


class _Runner:
    def __init__(self, client: RemoteClient, output: str) -> None:
        self._client, self._output = client, output

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._client.run(images, self._output)

    def close(self) -> None:
        """Leave the client open: its owner closes it."""


def engine_of(client: RemoteClient, bundle: Bundle) -> Engine:
    """Return the model as an engine of this bundle; raises BackendError where it has another contract."""
    client.refuse_other_contract(bundle)
    manifest, server = bundle.manifest, client.server
    info = EngineInfo(
        backend=server.name,
        version=server.version,
        device="remote",
        precision=manifest.precision,
        arithmetic="unknown",
        num_threads=0,
        num_streams=1,
        batch_size=_IMAGES_AT_ONCE,
        bundle_sha256=None,
    )
    return Engine(
        [_Runner(client, manifest.output.name)],
        info,
        name=f"the server's model for {bundle.path}",
        output=manifest.output,
        max_batch=_IMAGES_AT_ONCE,
    )
