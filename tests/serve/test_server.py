"""A real server: asked by Triton's own client, by curl's requests, by hostile ones, and stopped in every way."""

import json
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http
from commands import Run
from networks import republished
from serving import Server, post, serving

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.golden.record import GoldenFiles


@pytest.fixture(scope="module")
def server(bundle: Bundle, features_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = (f"net={bundle.path}", f"net:2={bundle.path}", features_bundle.path)
    limits = ("--max-bytes", 8 << 20, "--max-images", 32, "--timeout", 5, "--queue", 64)
    with serving(tmp_path_factory.mktemp("server"), *models, *limits) as started:
        yield started


def client_of(server: Server) -> tritonclient.http.InferenceServerClient:
    return tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=300)


def test_triton_s_client_finds_the_server_and_its_models(server: Server, bundle: Bundle) -> None:
    client = client_of(server)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("net")
    assert client.is_model_ready("net", "2")
    assert not client.is_model_ready("net", "3")
    assert client.get_server_metadata()["name"] == "alexnet-deploy"
    found = client.get_model_metadata("net")
    assert found["versions"] == ["1", "2"]
    assert found["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 4]}]
    assert [one["name"] for one in found["inputs"]] == ["images", "encoded_images"]


@pytest.mark.parametrize("is_binary", [True, False])
def test_golden_images_have_the_golden_answers(is_binary: bool, server: Server, bundle: Bundle) -> None:
    golden = bundle.manifest.golden
    pixels = np.ascontiguousarray(bundle.read_tensor(golden.images))
    asked = tritonclient.http.InferInput("images", pixels.shape, "UINT8")
    asked.set_data_from_numpy(pixels, binary_data=is_binary)
    wanted = tritonclient.http.InferRequestedOutput("probabilities", binary_data=is_binary)
    answer = client_of(server).infer("net", [asked], outputs=[wanted], request_id="seven")
    assert np.abs(answer.as_numpy("probabilities") - bundle.read_tensor(golden.expected)).max() <= 1e-5
    head = answer.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == ("net", "2", "seven")


def test_golden_files_are_decoded_and_have_the_golden_answers(server: Server, features_bundle: Bundle) -> None:
    files = features_bundle.manifest.golden.files
    assert isinstance(files, GoldenFiles)
    held = np.empty(len(files.names), object)
    held[:] = [features_bundle.read(name) for name in files.names]
    asked = tritonclient.http.InferInput("encoded_images", held.shape, "BYTES")
    asked.set_data_from_numpy(held)
    found = client_of(server).infer("fc7", [asked]).as_numpy("features")
    wanted = features_bundle.read_tensor(files.expected)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_classes_are_those_of_the_classification_extension(server: Server, bundle: Bundle) -> None:
    pixels = np.ascontiguousarray(bundle.read_tensor(bundle.manifest.golden.images)[:2])
    asked = tritonclient.http.InferInput("images", pixels.shape, "UINT8")
    asked.set_data_from_numpy(pixels)
    wanted = tritonclient.http.InferRequestedOutput("probabilities", class_count=2)
    found = client_of(server).infer("net", [asked], outputs=[wanted]).as_numpy("probabilities")
    best = bundle.read_tensor(bundle.manifest.golden.expected)[:2].argmax(axis=1)
    assert found.shape == (2, 2)
    for row, index in zip(found, best, strict=True):
        assert row[0].decode().split(":")[1:] == [str(index), bundle.labels[index]]


def test_a_posted_image_gets_the_row_of_predict(run: Run, server: Server, bundle: Bundle, images: Path) -> None:
    rows = run("predict", images, "--bundle", bundle.path, "--format", "jsonl", "--topk", 3, "--batch-size", 1).out
    for line in rows.splitlines():
        wanted = json.loads(line)
        answer = post(f"{server.url}/v2/models/net/classify?topk=3", Path(wanted["path"]).read_bytes())
        assert answer.status_code == 200
        found = answer.json()
        assert found["ok"]
        assert [guess["label"] for guess in found["top"]] == [guess["label"] for guess in wanted["top"]]
        for guess, other in zip(found["top"], wanted["top"], strict=True):
            assert guess["probability"] == pytest.approx(other["probability"], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/net/classify", b"", 422, '"code":"empty"'),
        ("/v2/models/net/classify", b"Dear reader", 422, '"code":"not_an_image"'),
        ("/v2/models/net/classify?topk=0", b"", 400, "topk must be a number of classes, 1 or more, got '0'"),
        ("/v2/models/net/classify?topk=1e9", b"", 400, "topk must be a number"),
        ("/v2/models/fc7/classify", b"", 400, "fc7 returns features of fc7, which have no classes; use infer"),
        ("/v2/models/net/versions/9/classify", b"", 404, "there is no model 'net', version 9"),
        ("/v2/models/x/classify", b"", 404, "there is no model 'x'"),
        ("/v2/models/..%2f..%2fetc/infer", b"", 404, "there is no"),
        ("/v2/models/net/../../../etc/passwd", b"", 404, "there is nothing here"),
        ("/v2/models/net/infer", b"x" * ((8 << 20) + 1), 413, "a body has at most 8,388,608 bytes"),
        ("/v2/models/net", b"", 405, "POST is not supported here"),
    ],
)
def test_what_is_wrong_is_said(path: str, body: bytes, status: int, words: str, server: Server) -> None:
    answer = post(server.url + path, body)
    assert answer.status_code == status
    assert words in answer.text


def test_a_bomb_is_refused_from_its_header(server: Server) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    answer = post(f"{server.url}/v2/models/net/classify", bomb)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(changed) or 1)
        match chance.randrange(4):
            case 0 if changed:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[place : place + chance.randint(1, 64)]
            case 2:
                changed[place:place] = chance.randbytes(chance.randint(1, 32))
            case _:
                changed[place:place] = chance.choice([b"999999999999", b"-1", b"[", b'"', b"\xff", b"1e400", b"null"])
    return bytes(changed)


def statuses(server: Server, request: bytes) -> list[int]:
    """All that a server answers to these bytes, after which the connection is half closed: none, one or several."""
    answer = b""
    with connected(server) as connection, suppress(ConnectionResetError):
        # The server may answer and close before it has read everything.
        with suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(1 << 16):
            answer += piece
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 ([0-9]{3}) ", answer, flags=re.MULTILINE)]


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_requests_get_no_5xx_and_the_server_lives_on(
    number: int, server: Server, bundle: Bundle, images: Path
) -> None:
    chance = random.Random(number)
    photo = (images / "a.jpg").read_bytes()
    pixels = bundle.read_tensor(bundle.manifest.golden.images)[:1].tobytes()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 256, 256, 3]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(pixels)}}]}).encode()
    small = b'{"inputs":[{"name":"encoded_images","datatype":"BYTES","shape":[1],"data":["aGk="]}],"id":"1"}'
    lines = (
        f"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(head)}\r\n".encode()
    )
    seen: dict[int, int] = {}
    with httpx.Client(timeout=60) as client:
        for _ in range(number):
            kind = chance.randrange(4)
            headers = {}
            if kind == 3:
                length = chance.choice([len(head + pixels), 10, 10**12])
                changed = mutated(lines + b"Content-Length: %d\r\n" % length, chance)
                for status in statuses(server, changed + b"\r\n" + head + pixels):
                    seen[status] = seen.get(status, 0) + 1
                continue
            if kind == 0:
                path, body = "/v2/models/net/classify", mutated(photo, chance)
            elif kind == 1:
                path, body = "/v2/models/net/infer", mutated(small, chance)
            else:
                path, changed = "/v2/models/net/infer", mutated(head, chance)
                length = len(changed)
                lengths = [length, length, length, length - 1, length + 1, 10**9, "9" * 5000, "x"]
                headers = {"Inference-Header-Content-Length": str(chance.choice(lengths))}
                body = changed + pixels
            answer = client.post(server.url + path, content=body, headers=headers)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            assert answer.headers["content-type"] in ("application/json", "application/octet-stream")
        assert client.get(f"{server.url}/v2/health/ready").status_code == 200
    assert not [status for status in seen if status >= 500], seen
    assert min(seen[400], seen[422]) > 10
    assert server.process.poll() is None


def resident_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def test_memory_does_not_grow_with_the_number_of_requests(server: Server, images: Path) -> None:
    bodies = [(images / f"{letter}.jpg").read_bytes() for letter in "abcd"] + [b"no image"]

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as clients:

        def ask(number: int) -> int:
            url = f"{server.url}/v2/models/net/classify"
            return client.post(url, content=bodies[number % len(bodies)]).status_code

        # As many as are counted: the allocator grows until all threads have met, which is late on a busy machine.
        assert set(clients.map(ask, range(800))) == {200, 422}
        before = resident_mib(server)
        assert set(clients.map(ask, range(800))) == {200, 422}
    # The pixels of 640 images have 120 MiB.
    assert resident_mib(server) - before < 30


def test_half_closed_and_slow_clients_are_let_go(server: Server) -> None:
    with connected(server) as half:
        half.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        half.shutdown(socket.SHUT_WR)
        half.recv(1000)
    with connected(server) as gone:
        gone.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    with connected(server) as slow:
        slow.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(1000).splitlines()[0]
    with connected(server) as garbage:
        garbage.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert b" 400 " in garbage.recv(1000).splitlines()[0]
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def test_metrics_count_what_was_answered(server: Server, images: Path) -> None:
    def value(name: str) -> float:
        text = httpx.get(f"{server.url}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0

    name = 'alexnet_deploy_images_total{model="net",version="1"}'
    before = value(name)
    assert post(f"{server.url}/v2/models/net/versions/1/classify", (images / "a.jpg").read_bytes()).status_code == 200
    assert value(name) == before + 1
    assert value('alexnet_deploy_waiting_images{model="net",version="1"}') == 0


def test_requests_are_logged_as_json_with_escaped_paths(server: Server) -> None:
    assert httpx.get(f"{server.url}/v2/models/%1b%5b31m").status_code == 404
    found = [event for event in server.read_log() if event["event"] == "request" and "31m" in str(event["path"])]
    assert found[-1]["path"] == "/v2/models/\\x1b[31m"
    assert found[-1]["status"] == 404


def test_check_asks_the_server_for_its_golden_answers(
    run: Run, server: Server, bundle: Bundle, features_bundle: Bundle
) -> None:
    passed = run("check", bundle.path, "--url", server.url, "--model", "net:1")
    assert passed.code == 0, passed
    assert passed.out.count("passed") == 3
    assert "files it decoded" in passed.out
    assert run("check", features_bundle.path, "--url", server.url).code == 0
    missing = run("check", bundle.path, "--url", server.url, "--model", "none")
    assert 'answered 404: {"error":"there is no model \'none\'"}' in missing.refused(3)
    other = run("check", bundle.path, "--url", server.url, "--model", "fc7")
    assert "has no tensor probabilities, FP32 ('N', 4); it has features, FP32 [-1, 64]" in other.refused(3)


def test_a_server_of_another_network_fails_the_check(run: Run, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    golden = bundle.manifest.golden
    turned = bundle.read_tensor(golden.expected)[::-1].tobytes()
    other = republished(bundle, tmp_path / "other.bundle", {golden.expected.file: turned})
    outcome = run("check", other.path, "--url", server.url, "--model", "net", "--json")
    assert outcome.code == 1
    assert not json.loads(outcome.out)["passed"]


def test_a_tampered_bundle_changes_no_answer(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, copy)
    data = (images / "a.jpg").read_bytes()
    with serving(tmp_path, copy) as server:
        before = post(f"{server.url}/v2/models/copy/classify", data).json()
        for path in copy.rglob("*"):
            if path.is_file():
                path.write_bytes(b"tampered with")
        assert post(f"{server.url}/v2/models/copy/classify", data).json() == before
        shutil.rmtree(copy)
        assert post(f"{server.url}/v2/models/copy/classify", data).json() == before
        assert server.stop() == 0


def test_a_bundle_that_fails_its_proof_never_becomes_ready(bundle: Bundle, tmp_path: Path) -> None:
    golden = bundle.manifest.golden
    turned = bundle.read_tensor(golden.expected)[::-1].tobytes()
    faulty = republished(bundle, tmp_path / "faulty.bundle", {golden.expected.file: turned})
    with serving(tmp_path, bundle.path, faulty.path, until="listening") as server:
        assert server.process.wait(600) == 1
        text = server.log.read_text()
    assert '"event":"ready"' not in text
    assert "not served: golden: a probability is off by" in text


def test_every_accepted_request_is_answered_at_sigterm(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    data = (images / "a.jpg").read_bytes()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in bundle.path.rglob("*"))
    with serving(tmp_path, f"net={bundle.path}") as server:
        url = f"{server.url}/v2/models/net/classify"
        is_stopping = threading.Event()

        def ask() -> list[int]:
            statuses = []
            with httpx.Client(timeout=300) as client:
                while not is_stopping.is_set():
                    statuses.append(client.post(url, content=data).status_code)
            return statuses

        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(ask) for _ in range(4)]
            time.sleep(0.5)
            is_stopping.set()
            statuses = [status for one in asking for status in one.result()]
        assert set(statuses) == {200}
        slow = [connected(server) for _ in range(3)]
        head = f"POST /v2/models/net/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        for one in slow:
            one.sendall(head + data[:100])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping")
        for one in slow:
            one.sendall(data[100:])
            assert b" 200 " in one.recv(10_000).splitlines()[0]
            one.close()
        assert server.process.wait(600) == 0
        assert server.read_log()[-1]["event"] == "stopped"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in bundle.path.rglob("*")) == before


def test_a_killed_server_starts_again(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    data = (images / "a.jpg").read_bytes()
    answers = []
    for _ in range(2):
        with serving(tmp_path, f"net={bundle.path}") as server:
            answers.append(post(f"{server.url}/v2/models/net/classify", data).json())
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert answers[0] == answers[1]
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"] * 2


def test_a_token_and_tls_are_asked_for(run: Run, bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-7\n")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subject = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *subject], cwd=tmp_path, check=True, capture_output=True)
    options = ("--token-file", "token", "--tls-certificate", "cert.pem", "--tls-key", "key.pem")
    with serving(tmp_path, f"net={bundle.path}", *options, scheme="https") as server:
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with httpx.Client(verify=trust, base_url=server.url, timeout=60) as client:
            assert client.get("/v2/health/ready").status_code == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-7"}):
                for path in ("/v2/models/net", "/v2/models", "/metrics"):
                    answer = client.get(path, headers=headers)
                    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            right = {"Authorization": "Bearer secret-7"}
            assert client.post(
                "/v2/models/net/classify", content=(images / "a.jpg").read_bytes(), headers=right
            ).json()["ok"]
        assert server.stop() == 0
        assert "secret-7" not in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a={0} a={0}", "are both version 1 of a; name them apart: a:2="),
        ("none.bundle", "none.bundle"),
        ("{0} --tls-key {0}/manifest.json", "--tls-key needs --tls-certificate"),
        ("{0} --queue 1", "the queue must hold a request of 64 images, got 1"),
        ("{0} --token-file {0}/golden/images.u8", "cannot be read as a token"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(arguments: str, words: str, run: Run, bundle: Bundle) -> None:
    outcome = run("serve", *arguments.format(bundle.path).split())
    assert words in outcome.refused(2)


def test_a_port_that_is_taken_is_named(run: Run, server: Server, bundle: Bundle) -> None:
    port = server.url.rpartition(":")[2]
    outcome = run("serve", bundle.path, "--port", port)
    assert outcome.code == 3
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in outcome.err
