"""Run the server until it is told to stop: listen, prove, become ready; at the end answer what was taken."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from alexnet_deploy.core.errors import AlexNetDeployError, BackendError
from alexnet_deploy.serve.app import Service
from alexnet_deploy.serve.log import log_event
from alexnet_deploy.serve.metrics import Metrics
from alexnet_deploy.serve.model import Model
from alexnet_deploy.serve.proof import Proved, open_proved
from alexnet_deploy.serve.settings import ServerRequest

_MOST_CONNECTIONS = 1000
"""Further connections are answered with 503."""


class _Server(uvicorn.Server):
    """A server that leaves SIGTERM and SIGINT to `serve`, which then ends with 0; uvicorn raises them again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(request: ServerRequest) -> None:
    """Serve bundles until SIGTERM or SIGINT, then answer every accepted request and return.

    It listens at once, and is ready when every bundle was proved in this process. Raises what open_proved raises, and
    BackendError where it cannot listen.
    """
    asyncio.run(_serve(request))


async def _serve(request: ServerRequest) -> None:
    metrics = Metrics()
    service = Service(request.limits, metrics, request.token)
    app = service.app()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=int(max(1, request.limits.timeout_s)),
        timeout_graceful_shutdown=None,
        ssl_certfile=None if request.certificate is None else str(request.certificate),
        ssl_keyfile=None if request.key is None else str(request.key),
        lifespan="off",
        ws="none",
    )
    with _listening(request) as listener:
        server = _Server(config)
        failed: list[BaseException] = []

        async def become_ready() -> None:
            try:
                service.set_models(await _models(request, metrics))
                log_event("ready", models=[place.name for place in request.models])
            except BaseException as error:
                failed.append(error)
                server.should_exit = True
                raise

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server, number)
        host, port = listener.getsockname()[:2]
        log_event("listening", host=host, port=port, tls=request.certificate is not None)
        proving = asyncio.create_task(become_ready())
        try:
            await server.serve(sockets=[listener])
        finally:
            proving.cancel()
            with suppress(asyncio.CancelledError, AlexNetDeployError):
                await proving
            await service.close()
        if failed and isinstance(failed[0], AlexNetDeployError):
            raise failed[0]
        log_event("stopped")


async def _models(request: ServerRequest, metrics: Metrics) -> dict[tuple[str, str], Model]:
    loop = asyncio.get_running_loop()
    proved: list[Proved] = []
    try:
        for place in request.models:
            proved.append(await loop.run_in_executor(None, open_proved, place, request, _say))
    except BaseException:
        for one in proved:
            one.engine.close()
        raise
    models = (Model(one, request.limits, metrics) for one in proved)
    return {model.key: model for model in models}


def _say(words: str) -> None:
    log_event("proof", message=words)


def _stop(server: uvicorn.Server, number: signal.Signals) -> None:
    log_event("stopping", signal=signal.Signals(number).name)
    server.should_exit = True


@contextmanager
def _listening(request: ServerRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
    try:
        listener = socket.create_server((request.host, request.port), family=family, backlog=1024)
    except OSError as error:
        raise BackendError(f"cannot listen on {request.host}:{request.port}: {error.strerror or error}") from error
    with listener:
        yield listener
