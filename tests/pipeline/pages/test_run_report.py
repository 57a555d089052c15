"""The end of `train`: the weights are evaluated again, and a report page is written next to them."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from commands import Run
from networks import narrowed
from report_pages import Page, check_self_contained

from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model import family
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.pipeline.pages import run_report as reporting
from alexnet_deploy.report import page
from alexnet_deploy.train.loop.evaluation import spread_numbers


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = narrowed(family.ARCHITECTURES["tiny"], divisor=4)
    monkeypatch.setattr(family, "ARCHITECTURES", MappingProxyType({**family.ARCHITECTURES, "tiny": tiny}))


def train(run: Run, *arguments: object) -> tuple[Path, list[str]]:
    """Train for one epoch; return the weights file and the progress lines."""
    done = run("train", *arguments, *("--arch", "tiny", "--epochs", 1, "--device", "cpu"))
    assert not done.code, done
    (path,) = done.out.splitlines()
    return Path(path), done.err.splitlines()


def asked(weights: Path, files: Sequence[Path], views: str) -> tuple[np.ndarray, np.ndarray]:
    """Run the trained network on files; return which predictions are correct, and the top-1 confidences."""
    known = load_weights(weights).weights
    crops = views_by_name(views, known.architecture.input_size)  # type: ignore[arg-type]
    with open_reference(known, crops) as reference:
        said = reference.run(np.stack([read_image(file, known.preprocessing.image_policy) for file in files]))
    return said.argmax(axis=1) == [known.labels.index(file.parent.name) for file in files], said.max(axis=1)


def shown(page: Path) -> list[str]:
    """Return the captions in the gallery."""
    return re.findall(r'<img src="data:image/jpeg[^>]*alt="([^"]*)"', page.read_text())


def test_train_ends_with_a_page_on_what_was_learnt(run: Run, drawn: Path) -> None:
    weights, said = train(run, drawn)
    page = weights.parent / "report.html"
    check_self_contained(page.read_bytes())
    files = sorted((drawn / "val").glob("*/*"))
    is_right, confidence = asked(weights, files, "ten")
    is_right_too, _ = asked(weights, files, "center")
    assert said[-4].startswith(
        f"top-1 {is_right.mean():.1%} with ten views, {is_right_too.mean():.1%} with the centre view, on 8 validation "
        "images after epoch 1 of 1; "
    )
    assert said[-3] == f"training report: {page}"
    assert said[-2] == f"metrics per epoch: {page.with_name('metrics.jsonl')}"
    assert said[-1] == "next: alexnet-deploy export"
    text = Page(page.read_bytes()).text
    assert re.search(rf"Top-1 with ten views: [\d.]+ %, {is_right.sum()} of 8 validation images \(", text)
    wrong = np.flatnonzero(~is_right)
    assert len(wrong), "after one epoch"
    most_confident = wrong[np.argsort(-confidence[wrong])]
    assert shown(page) == [str(files[place].relative_to(drawn)) for place in most_confident]


def test_resuming_what_is_done_writes_the_page_again(run: Run, drawn: Path) -> None:
    weights, _ = train(run, drawn)
    page = weights.parent / "report.html"
    before = Page(page.read_bytes()).text
    page.unlink()
    kept = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    done = run("train", "--resume", "--device", "cpu")
    assert not done.code, done
    # Exported bundles are identified by the digest of the weights.
    assert {path.name: path.read_bytes() for path in page.parent.iterdir() if path != page} == kept
    assert before == Page(page.read_bytes()).text


def test_a_packed_set_tells_the_names_of_its_source(run: Run, drawn: Path) -> None:
    assert not run("pack", drawn, "packed").code
    of_folder, of_pack = (train(run, source, "--out", f"of-{source.name}")[0] for source in (drawn, Path("packed")))
    names = shown(of_folder.with_name("report.html"))
    assert names == shown(of_pack.with_name("report.html"))
    assert names
    assert all((drawn / name).is_file() for name in names)


def test_of_many_images_a_part_is_asked(run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "spread_numbers", lambda num_images: spread_numbers(num_images, 4))
    weights, said = train(run, drawn)
    assert " with the centre view, on 4 validation images of 8, evenly spread, after epoch " in said[-4]
    page = weights.with_name("report.html")
    assert "4 of 8 validation images were evaluated, evenly spaced." in Page(page.read_bytes()).text
    # The second of each class.
    files = sorted((drawn / "val").glob("*/*"))[1::2]
    is_right, _ = asked(weights, files, "ten")
    wrong = {str(file.relative_to(drawn)) for file, right in zip(files, is_right, strict=True) if not right}
    assert set(shown(page)) == wrong != set()


def test_a_page_that_cannot_be_written_leaves_the_weights(
    run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_atomically", full)
    done = run("train", drawn, "--arch", "tiny", "--epochs", 1, "--out", "one")
    assert done.code == 3
    assert done.out == "one/weights.safetensors\n"
    assert done.err.splitlines()[-2:] == [
        "the weights are complete; `alexnet-deploy train --resume --out one` writes their report",
        "error: one/report.html: could not be written: No space left on device",
    ]
    assert load_weights(Path("one/weights.safetensors")).weights.training is not None
    assert not Path("one/report.html").exists()


def test_an_interrupted_report_says_how_to_have_it(run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reporting, "evaluate", interrupt)
    done = run("train", drawn, "--arch", "tiny", "--epochs", 1, "--out", "one")
    assert (done.code, done.out) == (130, "one/weights.safetensors\n")
    assert "the weights are complete; `alexnet-deploy train --resume --out one` writes their report" in done.err
    assert load_weights(Path("one/weights.safetensors")).weights.training is not None


def test_a_run_that_is_interrupted_is_not_reported(run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy.train.loop.trainer import Trainer

    def interrupted(trainer: Trainer, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_finish_epoch", interrupted)
    done = run("train", drawn, "--arch", "tiny", "--epochs", 1, "--out", "one")
    assert done.code == 130
    assert done.out == ""
    assert "interrupted; resume with `alexnet-deploy train --resume --out one`\n" in done.err
    assert Path("one/weights.safetensors").exists()
    assert not Path("one/report.html").exists()
