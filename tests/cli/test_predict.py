import csv
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S, MAIN, Run, spawn
from faulty import NAMED_BY_THE_AUDIT, faulty_bundle
from networks import republished, saved, with_tensor

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.labels import encode_labels
from alexnet_deploy.core.model.weights import LoadedWeights


def test_rows_go_to_stdout_and_messages_to_stderr(run: Run, latest: Path, images: Path) -> None:
    outcome = run("predict", images, "--format", "jsonl")
    assert outcome.code == 0
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["path"] for row in rows] == sorted(map(str, images.iterdir()))
    assert all(row["ok"] for row in rows)
    first, done = outcome.err.splitlines()
    assert first.startswith("bundles/tiny.bundle, ten views, on openvino ")
    assert re.fullmatch(r".*, cpu, float32, \d+ streams? of batch 4", first)
    assert done == "12 predicted"


def test_failed_inputs_are_counted_and_exit_with_1(run: Run, latest: Path, images: Path) -> None:
    Path("empty.jpg").touch()
    outcome = run("predict", "nothing.jpg", images / "a.jpg", "empty.jpg", "nothing.jpg")
    assert outcome.code == 1
    first, second, third, fourth = outcome.out.splitlines()
    assert first == fourth == f"{'nothing.jpg':<40}      -- missing: there is no such file"
    assert second.startswith(f"{images}/a.jpg")
    assert second.count("%") == 4
    assert third == f"{'empty.jpg':<40}      -- empty: the file has no bytes"
    assert outcome.err.splitlines()[1:] == ["1 predicted", "3 could not be read: missing 2, empty 1"]


def test_predictions_below_the_threshold_are_marked_and_counted(run: Run, latest: Path, images: Path) -> None:
    Path("empty.jpg").touch()
    inputs = ("predict", images, "empty.jpg", "--format", "jsonl")
    plain = [json.loads(line) for line in run(*inputs).out.splitlines()]
    confidences = sorted(row["top"][0]["probability"] for row in plain if row["ok"])
    threshold = confidences[5]
    outcome = run(*inputs, "--reject", threshold)
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 1
    assert outcome.err.splitlines()[1] == f"12 predicted, 5 of them rejected: below {threshold:g}"
    # Exactly the threshold is not below it.
    assert [row.pop("rejected") for row in rows] == [
        row["ok"] and row["top"][0]["probability"] < threshold for row in plain
    ]
    assert rows == plain


def test_a_complete_file_is_confirmed_with_its_own_threshold_only(run: Run, latest: Path, images: Path) -> None:
    command = ("predict", images, "--output", "rows.jsonl", "--resume")
    assert run(*command, "--reject", 0.999).err.endswith("12 predicted, 12 of them rejected: below 0.999\n")
    assert run(*command, "--reject", 0.999).err.endswith("12 predicted, 12 of them rejected: below 0.999\n")
    assert "row 1 does not fit this bundle: it was written with --reject; " in run(*command).refused(2)
    assert "row 1 does not fit this bundle: it was not written with --reject 0" in run(*command, "--reject", 0).refused(
        2
    )


@pytest.mark.parametrize("reject", ["-0.1", "1.5", "nan"])
def test_a_threshold_that_is_not_a_probability_is_wrong_use(reject: str, run: Run, latest: Path, images: Path) -> None:
    outcome = run("predict", images, "--reject", reject)
    assert outcome.refused(2) == f"reject must be a probability, 0 to 1, got {reject}"


def test_no_input_is_wrong_use_unless_it_is_allowed(run: Run, latest: Path) -> None:
    Path("images/deep").mkdir(parents=True)
    for inputs in (["images"], ["images", "images/deep"], ["-"]):
        said = run("predict", *inputs).refused(2)
        found = "stdin: the list names no files" if inputs == ["-"] else f"{' '.join(inputs)}: no files found"
        assert said == f"{found}; pass --allow-empty to accept that"
        outcome = run("predict", *inputs, "--allow-empty")
        assert (outcome.code, outcome.out) == (0, "")
        assert outcome.err.endswith("\n0 predicted\n")


def test_no_input_leaves_no_file_unless_it_is_allowed(run: Run, latest: Path) -> None:
    Path("images").mkdir()
    before = sorted(Path.cwd().iterdir())
    assert run("predict", "images", "--output", "rows.csv").refused(2).startswith("images: no files found")
    assert sorted(Path.cwd().iterdir()) == before
    assert run("predict", "images", "--output", "rows.csv", "--allow-empty").code == 0
    assert Path("rows.csv").read_text().startswith("path,ok,error,message,index1,")
    assert Path("rows.csv").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("output", "wanted", "held"),
    [
        ("rows.csv", None, "csv"),
        ("rows.JSONL", None, "jsonl"),
        ("rows.ndjson", None, "jsonl"),
        ("rows.txt", None, "table"),
        ("rows.csv", "csv", "csv"),
        ("rows.ndjson", "jsonl", "jsonl"),
        ("rows.dat", "csv", "csv"),
        ("rows", "jsonl", "jsonl"),
    ],
)
def test_format_follows_the_extension_of_the_output(
    output: str, wanted: str | None, held: str, run: Run, latest: Path, images: Path
) -> None:
    options = ["--format", wanted] if wanted else []
    assert run("predict", images / "a.jpg", "--output", output, *options).code == 0
    shown = run("predict", images / "a.jpg", "--format", held)
    assert Path(output).read_text() == shown.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--output rows.csv --format jsonl", "rows.csv: its extension means csv, but --format is jsonl; change one of"),
        (
            "--output rows.jsonl --format table",
            "rows.jsonl: its extension means jsonl, but --format is table; change o",
        ),
        ("--output rows.dat", "rows.dat: its extension is not one of .csv, .jsonl, .ndjson, .txt; pass --format"),
        ("--output rows", "rows: its extension is not one of .csv, .jsonl, .ndjson, .txt; pass --format"),
        ("--output rows.txt --resume", "--resume needs an --output whose --format is jsonl or csv"),
    ],
)
def test_output_that_contradicts_its_format_is_refused(
    options: str, sentence: str, run: Run, latest: Path, images: Path
) -> None:
    before = sorted(Path.cwd().iterdir())
    assert run("predict", images / "a.jpg", *options.split()).refused(2).startswith(sentence)
    assert sorted(Path.cwd().iterdir()) == before


def test_a_dash_among_the_inputs_reads_names_from_stdin(run: Run, latest: Path, images: Path) -> None:
    listed = f"{images}/b.jpg\nnothing.jpg\n".encode()
    outcome = run("predict", images / "a.jpg", "-", images / "c.jpg", "--format", "jsonl", stdin=listed)
    paths = [json.loads(line)["path"] for line in outcome.out.splitlines()]
    assert paths == [f"{images}/a.jpg", f"{images}/b.jpg", "nothing.jpg", f"{images}/c.jpg"]
    assert outcome.code == 1


def test_each_name_gets_its_row_before_the_next_name_arrives(bundle: Bundle, images: Path) -> None:
    command = [sys.executable, "-c", MAIN, "predict", "-", "--bundle", bundle.path, "--format", "jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in (f"{images}/a.jpg", "nothing.jpg", f"{images}/b.jpg"):
            process.stdin.write(f"{name}\n".encode())
            came, _, _ = select.select([process.stdout], [], [], HANGS_AFTER_S)
            assert came or process.kill()
            assert json.loads(process.stdout.readline())["path"] == name
        process.stdin.close()
    assert process.returncode == 1


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_output_holds_the_rows_that_stdout_would(row_format: str, run: Run, latest: Path, images: Path) -> None:
    inputs = [images / "a.jpg", "nothing.jpg", images / "b.jpg"]
    shown = run("predict", *inputs, "--format", row_format)
    kept = run("predict", *inputs, "--format", row_format, "--output", "rows")
    assert kept.out == ""
    assert kept.code == shown.code == 1
    assert kept.err == shown.err
    assert Path("rows").read_bytes().decode() == shown.out
    assert shown.out.count("\n") == 3 + (row_format == "csv")


def test_output_that_cannot_be_written_is_refused(run: Run, latest: Path, images: Path) -> None:
    said = run("predict", images, "--output", "nowhere/rows.csv").refused(2)
    assert said == "nowhere/rows.csv: there is no folder nowhere; create it first"


def test_output_that_exists_is_refused_and_kept(run: Run, latest: Path, images: Path) -> None:
    photograph = Path("only.jpg")
    photograph.write_bytes((images / "a.jpg").read_bytes())
    said = run("predict", photograph, "--output", photograph, "--format", "csv").refused(2)
    assert said == "only.jpg: already exists; choose another --output"
    assert photograph.read_bytes() == (images / "a.jpg").read_bytes()


def test_output_in_an_input_folder_is_not_an_input(run: Run, latest: Path, images: Path) -> None:
    Path("mine").mkdir()
    Path("mine/a.jpg").write_bytes((images / "a.jpg").read_bytes())
    assert run("predict", "mine", "--output", "mine/rows.jsonl", "--format", "jsonl").code == 0
    (row,) = Path("mine/rows.jsonl").read_text().splitlines()
    assert '"path":"mine/a.jpg","ok":true' in row
    assert sorted(path.name for path in Path("mine").iterdir()) == ["a.jpg", "rows.jsonl"]


def test_topk_and_max_pixels_are_obeyed(run: Run, latest: Path, images: Path) -> None:
    outcome = run("predict", images / "a.jpg", "--topk", 2, "--format", "csv")
    header, row = csv.reader(io.StringIO(outcome.out))
    assert len(header) == len(row) == 4 + 2 * 3
    many = run("predict", images / "a.jpg", "--topk", 1000, "--format", "csv")
    assert len(next(csv.reader(io.StringIO(many.out)))) == 4 + 4 * 3
    small = run("predict", images / "a.jpg", "--max-pixels", 100, "--format", "jsonl")
    assert json.loads(small.out)["error"]["code"] == "too_large"
    assert run("predict", images / "a.jpg", "--max-pixels", 10**12).code == 0


def test_files_that_are_not_images_are_counted_by_extension(run: Run, latest: Path, images: Path) -> None:
    names = [*(f"IMG_{number}.AAE" for number in range(3)), "a.xmp", "b.xmp", "c.txt", "d.d", "e.e", "f.f", "Thumbs.db"]
    for name in names:
        Path(name).write_text("beside an image")
    outcome = run("predict", images / "a.jpg", *names)
    assert outcome.err.splitlines()[-2:] == [
        "1 predicted",
        "10 could not be read: not_an_image 10 (3 .AAE, 2 .xmp, 1 .txt, 1 .d, 1 .e, and 2 other extensions)",
    ]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_backend_is_obeyed(backend: str, run: Run, latest: Path, images: Path) -> None:
    outcome = run("predict", images / "a.jpg", "--backend", backend, "--threads", 1, "--device", "cpu")
    assert outcome.code == 0
    assert f", on {backend} " in outcome.err


def test_views_that_the_graph_does_not_compute_are_refused(
    run: Run, run_directory: Path, latest: Path, images: Path
) -> None:
    said = run("predict", images, "--views", "center").refused(2)
    assert said == (
        "bundles/tiny.bundle: its graph computes ten views, not center; `alexnet-deploy export --views center` makes "
        "one that does"
    )
    made = run("export", "--views", "center", "--out", "bundles/center.bundle")
    assert made.code == 0
    assert made.out == "bundles/center.bundle\n"
    assert made.err.startswith("no WEIGHTS given: using runs/tiny/weights.safetensors\n")
    assert made.err.endswith("next: alexnet-deploy check bundles/center.bundle\n")
    outcome = run("predict", images / "a.jpg", "--views", "center")
    assert outcome.code == 0
    assert outcome.err.startswith("bundles/center.bundle, center views, on ")
    assert run("export", "--out", "bundles/center.bundle").refused(2) == (
        "bundles/center.bundle: already exists; choose another --out, or --force to move it aside"
    )


@pytest.mark.parametrize("command", ["predict a.jpg", "check"])
def test_damaged_bundle_is_refused_in_one_sentence(command: str, run: Run, latest: Path) -> None:
    data = bytearray((latest / "model.onnx").read_bytes())
    data[1000] ^= 1
    (latest / "model.onnx").write_bytes(data)
    said = run(*command.split()).refused(3)
    assert re.fullmatch(
        r"bundles/tiny\.bundle/model\.onnx: SHA-256 is \w{12}\.\.\., expected \w{12}\.\.\.; copy the bundle again, or "
        r"export it again",
        said,
    )


def test_closed_pipe_is_not_an_error(bundle: Bundle, images: Path) -> None:
    for inputs in ([images / "a.jpg"], [*map(str, range(3000))]):
        reading, writing = os.pipe()
        os.close(reading)
        outcome = spawn("predict", *inputs, "--bundle", bundle.path, "--format", "jsonl", stdout=writing)
        os.close(writing)
        assert outcome.code == 141, "as a shell reports a program that a broken pipe ended"
        for word in ("Traceback", "Exception", "Error", "error:"):
            assert word not in outcome.err


def test_rows_that_do_not_fit_on_the_disk_are_an_error(bundle: Bundle, images: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        outcome = spawn("predict", images / "a.jpg", "--bundle", bundle.path, stdout=full.fileno())
    assert "No space left on device" in outcome.refused(3)


def test_neither_stdin_nor_a_utf_8_terminal_is_needed(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    names = [tmp_path / "é.jpg", tmp_path / os.fsdecode(b"caf\xe9.jpg")]
    for path in names:
        path.write_bytes((images / "a.jpg").read_bytes())
    # A program that is started without a terminal may have a closed stdin.
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", MAIN]
    done = subprocess.run(
        [*closed, "predict", "--bundle", bundle.path, *names, "--format", "jsonl"],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert paths == [str(names[0]), f"{tmp_path}/caf\\xe9.jpg"]


def test_path_that_is_not_utf_8_is_escaped_as_in_rows(loaded: LoadedWeights, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    shutil.copy(loaded.path, path)
    outcome = spawn("inspect", path, PYTHONIOENCODING="utf-8:strict")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path}/caf\\xe9.safetensors: trained weights of original")


def firsts(lines: Sequence[str]) -> list[str]:
    """The first word of each line."""
    return [line.split()[0] for line in lines]


def test_sound_bundle_passes(run: Run, latest: Path) -> None:
    outcome = run("check")
    assert outcome.code == 0
    header, *rows = outcome.out.splitlines()
    assert header.startswith("engine ")
    assert firsts(rows) == ["openvino", "openvino", "onnxruntime", "onnxruntime", "decoder"]
    assert all(row.endswith("passed") for row in rows)
    assert outcome.err.endswith(
        "not done: the trained network was not run; pass --weights FILE to run it\nbundles/tiny.bundle: passed\n"
    )


def test_latest_weights_are_checked_too_if_the_bundle_was_made_from_them(
    run: Run, latest: Path, run_directory: Path, loaded: LoadedWeights
) -> None:
    outcome = run("check")
    every = ["torch", "torch", "openvino", "openvino", "onnxruntime", "onnxruntime", "decoder"]
    assert firsts(outcome.out.splitlines()) == ["engine", *every]
    assert "not done" not in outcome.err
    other = with_tensor(loaded.weights, "fc8.bias", loaded.weights.tensors["fc8.bias"] + 1)
    other.save(run_directory / "weights.safetensors")
    outcome = run("check")
    assert outcome.code == 0
    assert firsts(outcome.out.splitlines()) == ["engine", *every[2:]]


def test_weights_of_an_older_run_are_found_by_their_digest(
    run: Run, latest: Path, run_directory: Path, loaded: LoadedWeights, images: Path
) -> None:
    newer = Path("runs/newer")
    newer.mkdir()
    saved(
        with_tensor(loaded.weights, "fc8.bias", loaded.weights.tensors["fc8.bias"] + 1), newer / "weights.safetensors"
    )
    Path("runs/latest").write_text("newer\n")
    Path("runs/empty").mkdir()
    outcome = run("check", "--data", images, "--backend", "openvino")
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith(
        "no --weights given: using runs/tiny/weights.safetensors, which this bundle was made from\n"
    )
    assert firsts(outcome.out.splitlines()[1:]) == ["torch"] * 3 + ["openvino"] * 3 + ["decoder"]
    (run_directory / "weights.safetensors").unlink()
    said = run("check", "--data", images).refused(2)
    assert said == (
        "--data needs the weights that bundles/tiny.bundle was made from, but no runs/*/weights.safetensors has their "
        f"SHA-256 {loaded.sha256[:12]}...; pass them with --weights"
    )


def test_planted_fault_is_named_on_stdout(run: Run, bundle: Bundle, loaded: LoadedWeights) -> None:
    name = "red and blue swapped"
    faulty = faulty_bundle(bundle, loaded, name, Path("faulty.bundle").absolute())
    outcome = run("check", faulty.path, "--backend", "onnxruntime")
    assert outcome.code == 1
    problems = outcome.out.splitlines()
    assert any(problem.startswith(f"FAILED: {NAMED_BY_THE_AUDIT[name]}") for problem in problems)
    assert "not done: no engine was run: the graph differs from its table" in outcome.err
    assert outcome.err.endswith(f"{faulty.path}: FAILED\n")


def test_check_prints_json(run: Run, latest: Path, bundle: Bundle) -> None:
    outcome = run("check", "--json", "--backend", "onnxruntime")
    assert outcome.code == 0
    answer = json.loads(outcome.out)
    assert answer.keys() == {"passed", "rows", "problems", "decoder"}
    assert answer["passed"] is True
    assert answer["problems"] == []
    assert [(row["backend"], row["pictures"]) for row in answer["rows"]] == [
        ("onnxruntime", "golden"),
        ("onnxruntime", "golden files"),
    ]
    assert [row["failures"] for row in answer["rows"]] == [[], []]
    shuffled = {"labels.txt": encode_labels(bundle.labels[::-1])}
    faulty = republished(bundle, Path("faulty.bundle").absolute(), shuffled)
    outcome = run("check", faulty.path, "--json", "--backend", "onnxruntime")
    assert outcome.code == 1
    answer = json.loads(outcome.out)
    assert answer["passed"] is False
    assert answer["problems"] == ["labels: the graph's metadata does not match the manifest"]


def test_weights_of_another_network_are_refused(run: Run, latest: Path, loaded: LoadedWeights) -> None:
    changed = with_tensor(loaded.weights, "fc8.bias", loaded.weights.tensors["fc8.bias"] + 1)
    other = saved(changed, Path("other.safetensors"))
    said = run("check", "--weights", other.path).refused(2)
    assert said.startswith(f"other.safetensors: SHA-256 is {other.sha256[:12]}...")
    assert loaded.sha256[:12] in said


def test_given_images_are_compared_too(run: Run, latest: Path, run_directory: Path, images: Path) -> None:
    outcome = run("check", "--data", images, "--backend", "openvino")
    assert outcome.code == 0
    rows = outcome.out.splitlines()[1:]
    assert [(row.split()[0], "12 given" in row) for row in rows] == [
        ("torch", False),
        ("torch", False),
        ("torch", True),
        ("openvino", False),
        ("openvino", False),
        ("openvino", True),
        ("decoder", False),
    ]


def test_image_that_cannot_be_compared_on_is_named(run: Run, latest: Path, run_directory: Path) -> None:
    Path("given").mkdir()
    Path("given/empty.jpg").touch()
    outcome = run("check", "--data", "given")
    assert outcome.code == 3
    assert outcome.err.endswith("error: given/empty.jpg: cannot be decoded: the file has no bytes\n")


def test_data_without_images_is_refused(run: Run, latest: Path, run_directory: Path) -> None:
    Path("images").mkdir()
    assert run("check", "--data", "images").refused(2).startswith("images: holds no images")


def test_a_gallery_shows_every_input(latest: Path, images: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(images / name, tmp_path / "in" / name)
    (tmp_path / "in/c.txt").write_text("notes")
    done = run("predict", "in", "--gallery", "page.html")
    assert done.code == 1
    assert "gallery: page.html" in done.err
    page = Path("page.html").read_text()
    assert page.count("<figure") == 3
    assert "not_an_image" in page
    assert run("predict", "in", "--gallery", "page.html").refused(2) == (
        "page.html: already exists; choose another --gallery"
    )
    said = run("predict", "in", "--gallery", "b.html", "--output", "a.csv", "--resume").refused(2)
    assert said == "--gallery shows the predictions of one run; leave out --resume"
