"""The routes of the server: the Open Inference Protocol v2, one image by POST, metrics, and a page."""

import asyncio
import hmac
import importlib.resources
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.errors import AlexNetDeployError, ImageError, ImageErrorCode
from alexnet_deploy.core.inference_protocol import HEADER_LENGTH
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.versions import __version__
from alexnet_deploy.predict.prediction import best_guesses
from alexnet_deploy.serve.errors import BusyError, RequestError
from alexnet_deploy.serve.log import log_event, log_request
from alexnet_deploy.serve.metrics import Metrics
from alexnet_deploy.serve.model import Model
from alexnet_deploy.serve.protocol import ENCODED_IMAGES, read_request, write_answer
from alexnet_deploy.serve.settings import ServerLimits

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

Answer = TypeVar("Answer")

# The page runs its own script and asks this server alone.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_CLIENT_CLOSED = 499
"""nginx's status for a client that left before its answer; nobody receives it, the log and the metrics show it."""


class Service:
    """The models of a server, and its answers to requests."""

    def __init__(self, limits: ServerLimits, metrics: Metrics, token: str | None = None) -> None:
        """Create a service without models; it becomes ready with set_models."""
        self._limits = limits
        self._metrics = metrics
        self._token = token
        self._models: Mapping[tuple[str, str], Model] | None = None
        self._num_held = 0
        """Bytes of all bodies in memory."""

    def set_models(self, models: Mapping[tuple[str, str], Model]) -> None:
        """Become ready: every model was proved."""
        self._models = models

    async def close(self) -> None:
        """Close the models; no request may be running."""
        for model in (self._models or {}).values():
            await model.close()

    def app(self) -> Starlette:
        """Return the ASGI application."""
        in_model = "/v2/models/{model}"
        in_version = in_model + "/versions/{version}"
        routes = [
            self._route("/", self._page, is_open=True),
            self._route("/v2", self._server),
            self._route("/v2/health/live", self._live, is_open=True),
            self._route("/v2/health/ready", self._ready, is_open=True),
            self._route("/v2/models", self._list),
            self._route("/metrics", self._figures),
        ]
        for prefix in (in_model, in_version):
            routes += [
                self._route(prefix, self._metadata),
                self._route(f"{prefix}/ready", self._model_ready),
                self._route(f"{prefix}/infer", self._infer, "POST"),
                self._route(f"{prefix}/classify", self._classify, "POST"),
            ]
        # A trailing slash is another path, which does not exist.
        return Starlette(routes=routes, exception_handlers={404: _nothing_here, 405: _wrong_method})

    def _route(self, path: str, handler: Handler, method: str = "GET", *, is_open: bool = False) -> Route:
        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            try:
                if not is_open:
                    self._refuse_strangers(request)
                response = await handler(request)
            except RequestError as error:
                response = _refusal(error)
            except AlexNetDeployError as error:
                # The engine failed: what it said is for the log, not for a client.
                log_event("failed", path=request.url.path, error=str(error))
                response = _json({"error": "the engine failed; the server's log says why"}, 500)
            except ClientDisconnect:
                response = Response(status_code=_CLIENT_CLOSED)
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(path, response.status_code).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            log_request(request.method, request.url.path, response.status_code, seconds)
            return response

        return Route(path, answer, methods=[method])

    def _refuse_strangers(self, request: Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RequestError(401, "this server needs a bearer token", {"WWW-Authenticate": "Bearer"})

    async def _page(self, request: Request) -> Response:
        page = importlib.resources.files(__package__).joinpath("page.html").read_text("utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        is_ready = self._models is not None
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def _server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "classification"]
        return _json({"name": "alexnet-deploy", "version": __version__, "extensions": extensions})

    async def _list(self, request: Request) -> Response:
        return _json({"models": [_description(model) for model in (self._models or {}).values()]})

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        name, _ = model.key
        versions = [version for other, version in (self._models or {}) if other == name]
        inputs = [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, IMAGE_SIZE, IMAGE_SIZE, 3]},
            {"name": ENCODED_IMAGES, "datatype": "BYTES", "shape": [-1]},
        ]
        outputs = [{"name": model.output.name, "datatype": "FP32", "shape": [-1, model.output.size]}]
        return _json(
            {
                "name": name,
                "versions": versions,
                "platform": f"alexnet-deploy_{model.proved.engine.info.backend}",
                "inputs": inputs,
                "outputs": outputs,
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        self._model(request)
        return _json({"ready": True})

    async def _infer(self, request: Request) -> Response:
        model = self._model(request)
        async with self._body(request) as body:
            asked = read_request(body, request.headers.get(HEADER_LENGTH), model.output, self._limits.images)
            try:
                if isinstance(asked.images, tuple):
                    outputs = await self._in_time(model.run_files(asked.images))
                else:
                    outputs = await self._in_time(model.run(asked.images))
            except ImageError as error:
                raise RequestError(_status_of(error), f"{ENCODED_IMAGES}: {error.code.value}: {error}") from error
        self._metrics.images.labels(*model.key).inc(len(outputs))
        answer, head = write_answer(asked, outputs, model.output, model.labels, *model.key)
        if head is None:
            return Response(answer, media_type="application/json")
        return Response(answer, media_type="application/octet-stream", headers={HEADER_LENGTH: str(head)})

    async def _classify(self, request: Request) -> Response:
        """Answer the row of `predict` for one image, without its path."""
        model = self._model(request)
        if model.output.layer is not None:
            raise RequestError(400, f"{model.key[0]} returns {model.output.words}, which have no classes; use infer")
        topk = request.query_params.get("topk", "5")
        if not re.fullmatch("0*[1-9][0-9]{0,8}", topk):
            raise RequestError(400, f"topk must be a number of classes, 1 or more, got {topk!r}")
        try:
            async with self._body(request) as body:
                (row,) = await self._in_time(model.run_files((body,)))
        except ImageError as error:
            refused = {"ok": False, "error": {"code": error.code.value, "message": str(error)}}
            return _json(refused, _status_of(error))
        self._metrics.images.labels(*model.key).inc()
        return _json({"ok": True, "top": best_guesses(row, model.labels, int(topk))})

    async def _figures(self, request: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _model(self, request: Request) -> Model:
        if self._models is None:
            raise RequestError(503, "not ready: the models are being proved", {"Retry-After": "1"})
        name, version = request.path_params["model"], request.path_params.get("version")
        found = [key for key in self._models if key[0] == name and version in (None, key[1])]
        if not found:
            of = "" if version is None else f", version {version}"
            raise RequestError(404, f"there is no model {name!r}{of}")
        return self._models[max(found, key=lambda key: int(key[1]))]

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, and count its bytes as held until the block ends."""
        limit = self._limits.body_bytes
        too_large = RequestError(413, f"a body has at most {limit:,} bytes")
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise too_large
        pieces, num_bytes = [], 0
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                async for piece in request.stream():
                    if num_bytes + len(piece) > limit:
                        raise too_large
                    if self._num_held + len(piece) > self._limits.held_bytes:
                        raise BusyError(f"{self._num_held:,} bytes of other requests are in memory")
                    num_bytes += len(piece)
                    self._num_held += len(piece)
                    pieces.append(piece)
            body = b"".join(pieces)
            pieces.clear()
            yield body
        except TimeoutError as error:
            raise RequestError(408, f"the body did not arrive within {self._limits.timeout_s:g} s") from error
        finally:
            self._num_held -= num_bytes

    async def _in_time(self, answer: Awaitable[Answer]) -> Answer:
        try:
            return await asyncio.wait_for(answer, self._limits.timeout_s)
        except TimeoutError as error:
            words = f"no answer within {self._limits.timeout_s:g} s; the server is busy"
            raise RequestError(503, words, {"Retry-After": "1"}) from error


def _description(model: Model) -> dict[str, object]:
    """Return what is running, and its proof, for the page."""
    bundle, info = model.proved.bundle, model.proved.engine.info
    manifest = bundle.manifest
    name, version = model.key
    return {
        "name": name,
        "version": version,
        "bundle_sha256": bundle.sha256,
        "architecture": manifest.architecture.name,
        "precision": manifest.precision,
        "views": manifest.views.name,
        "returns": model.output.words,
        "num_classes": len(model.labels),
        "engine": f"{info.backend} {info.version}",
        "device": info.device,
        "arithmetic": info.arithmetic,
        "proof": [
            {"images": row.images, "num_images": row.num_images, "against": row.against, "max_error": row.max_error}
            for row in model.proved.rows
        ],
    }


def _status_of(error: ImageError) -> int:
    return 413 if error.code is ImageErrorCode.TOO_LARGE else 422


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def _refusal(error: RequestError) -> Response:
    return _json({"error": str(error)}, error.status, error.headers)


async def _nothing_here(request: Request, error: Exception) -> Response:
    return _json({"error": "there is nothing here; GET /v2/models lists the models"}, 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    return _json({"error": f"{request.method} is not supported here"}, 405)
