"""What the routes answer while a server is not ready, busy, late or broken: the application in this process."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.serve.app import Service
from alexnet_deploy.serve.metrics import Metrics
from alexnet_deploy.serve.model import Model
from alexnet_deploy.serve.proof import open_proved
from alexnet_deploy.serve.settings import ModelPlace, ServerLimits, ServerRequest

USUAL = ServerLimits()

Work = Callable[[httpx.AsyncClient, Model], Awaitable[None]]


def with_client(bundle: Bundle, work: Work, limits: ServerLimits = USUAL) -> None:
    """Run `work` with a client of a ready service with one model, `net`."""
    place = ModelPlace(bundle=bundle.path, name="net", version="1")
    proved = open_proved(place, ServerRequest(models=(place,), backend="onnxruntime"), lambda words: None)

    async def main() -> None:
        metrics = Metrics()
        service = Service(limits, metrics)
        model = Model(proved, limits, metrics)
        service.set_models({model.key: model})
        transport = httpx.ASGITransport(service.app())
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                await work(client, model)
        finally:
            await service.close()

    asyncio.run(asyncio.wait_for(main(), 300))


def test_nothing_but_health_is_answered_before_the_proof(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(Service(ServerLimits(), Metrics()).app())
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 503
            assert (await client.get("/v2/models")).json() == {"models": []}
            for answer in (await client.get("/v2/models/net"), await client.post("/v2/models/net/infer")):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json() == {"error": "not ready: the models are being proved"}

    asyncio.run(main())
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["status"] for event in logged] == [200, 503, 200, 503, 503]


def test_a_full_queue_is_429_and_empties_again(bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, started = threading.Event(), threading.Event()
    run = Engine.run

    def held(self: Engine, batch: object) -> object:
        started.set()
        assert go.wait(60)
        return run(self, batch)  # type: ignore[arg-type]

    data = (images / "a.jpg").read_bytes()

    async def work(client: httpx.AsyncClient, model: Model) -> None:
        monkeypatch.setattr(Engine, "run", held)
        asking = [asyncio.create_task(client.post("/v2/models/net/classify", content=data)) for _ in range(3)]
        while not started.is_set():
            await asyncio.sleep(0.01)
        while model._num_admitted < 3:
            await asyncio.sleep(0.01)
        refused = await client.post("/v2/models/net/classify", content=data)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json() == {"error": "net: 3 images are waiting, and the queue is full"}
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
        assert (await client.post("/v2/models/net/classify", content=data)).status_code == 200

    with_client(bundle, work, ServerLimits(queued_images=3, images=3))


def test_bodies_in_memory_are_limited_together(bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    run = Engine.run

    def held(self: Engine, batch: object) -> object:
        assert go.wait(60)
        return run(self, batch)  # type: ignore[arg-type]

    data = (images / "a.jpg").read_bytes()

    async def work(client: httpx.AsyncClient, model: Model) -> None:
        monkeypatch.setattr(Engine, "run", held)
        first = asyncio.create_task(client.post("/v2/models/net/classify", content=data))
        while not model._num_admitted:
            await asyncio.sleep(0.01)
        refused = await client.post("/v2/models/net/classify", content=data)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json() == {"error": f"{len(data):,} bytes of other requests are in memory"}
        go.set()
        assert (await first).status_code == 200
        assert (await client.post("/v2/models/net/classify", content=data)).status_code == 200

    with_client(bundle, work, ServerLimits(held_bytes=len(data) + 100))


def test_an_answer_that_is_late_is_503_and_leaves_nothing_behind(
    bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    run = Engine.run

    def held(self: Engine, batch: object) -> object:
        assert go.wait(60)
        return run(self, batch)  # type: ignore[arg-type]

    data = (images / "a.jpg").read_bytes()

    async def work(client: httpx.AsyncClient, model: Model) -> None:
        monkeypatch.setattr(Engine, "run", held)
        late = await client.post("/v2/models/net/classify", content=data)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert model._num_admitted == 0
        go.set()
        assert (await client.get("/v2/models/net/ready")).status_code == 200

    with_client(bundle, work, ServerLimits(timeout_s=0.2))


def test_an_engine_that_fails_is_500_without_its_words(
    bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Engine, batch: object) -> object:
        raise BackendError("/secret/path: the device is lost")

    async def work(client: httpx.AsyncClient, model: Model) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "run", broken)
            answer = await client.post("/v2/models/net/classify", content=(images / "a.jpg").read_bytes())
            assert answer.status_code == 500
            assert "secret" not in answer.text
        answer = await client.post("/v2/models/net/classify", content=(images / "a.jpg").read_bytes())
        assert answer.status_code == 200

    with_client(bundle, work)
    assert '"error":"/secret/path: the device is lost"' in capsys.readouterr().err


def test_the_page_asks_this_server_alone(bundle: Bundle) -> None:
    async def work(client: httpx.AsyncClient, model: Model) -> None:
        page = await client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'self'" in policy
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text
        found = (await client.get("/v2/models")).json()["models"]
        assert found[0]["bundle_sha256"] == bundle.sha256
        assert [row["images"] for row in found[0]["proof"]] == ["golden", "golden files"]
        assert max(row["max_error"] for row in found[0]["proof"]) <= 1e-5

    with_client(bundle, work)


def test_a_version_is_chosen_by_its_number(bundle: Bundle) -> None:
    async def work(client: httpx.AsyncClient, model: Model) -> None:
        others = {}
        for version in ("2", "10"):
            place = replace(model.proved.place, version=version)
            others["net", version] = Model(replace(model.proved, place=place), ServerLimits(), Metrics())
        service = Service(ServerLimits(), Metrics())
        service.set_models({model.key: model, **others})
        transport = httpx.ASGITransport(service.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as other:
            assert (await other.get("/v2/models/net")).json()["versions"] == ["1", "2", "10"]
            images = {"name": "encoded_images", "datatype": "BYTES", "shape": [1], "data": [""]}
            assert (await other.post("/v2/models/net/infer", json={"inputs": [images]})).status_code == 422
            assert service._models is not None
            assert max(service._models, key=lambda key: int(key[1])) == ("net", "10")

    with_client(bundle, work)
