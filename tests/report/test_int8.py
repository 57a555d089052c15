"""The report's sections on int8 and plans: complete, in order, and consistent with the numbers."""

import re

import msgspec
import numpy as np
import pytest
from report_pages import (
    FALLBACK,
    LAYERS,
    Page,
    histogram_of,
    make_accuracy,
    make_flip,
    make_gate,
    make_histograms,
    make_int8,
    make_manifest,
    make_plan,
    parity_row,
    render,
)

from alexnet_deploy.core.bundle.accuracy import Fallback
from alexnet_deploy.core.bundle.manifest import FileEntry, Manifest
from alexnet_deploy.core.bundle.plans import PlanOptions
from alexnet_deploy.core.golden.record import GoldenGraph, Tolerance
from alexnet_deploy.export.calibration import Histogram

NAN = float("nan")
EVIL = '<script>alert("1")</script>'


def text_of(manifest: Manifest, histograms: dict[str, Histogram] | None = None) -> str:
    return Page(render(manifest=manifest, histograms=histograms)).text


def histogram_svgs(raw: bytes) -> dict[str, str]:
    figures = re.findall(r"<figure>\s*<figcaption><b>(\w+)</b>(.*?)</figure>", raw.decode(), re.DOTALL)
    return {name: rest[rest.index("<svg") :] for name, rest in figures if "Histogram of" in rest}


def bars_of(raw: bytes) -> dict[str, tuple[str, str | None]]:
    """Return each layer's fate and the CSS length of its bar; None without a bar."""
    costs = re.search(r'class="faults costs">(.*?)class="fault axis"', raw.decode(), re.DOTALL)
    assert costs is not None
    rows = re.findall(r'class="fault (\w+)"><span class="name">(\w+)(.*?)</div>', costs[1])
    widths = {name: re.search(r"<i [^>]*width: max\(2px, ([\d.]+%)\)", rest) for _, name, rest in rows}
    return {name: (fate, width and width[1]) for (fate, name, _), width in zip(rows, widths.values(), strict=True)}


def test_an_fp32_bundle_shows_none_of_it() -> None:
    raw = render(histograms=make_histograms())
    assert not re.search("int8|calibrat|sensitiv|what went back|plans", Page(raw).text, re.IGNORECASE)
    assert not histogram_svgs(raw)


def test_the_page_needs_nothing_but_itself() -> None:
    raw = render(manifest=make_int8(plans=(make_plan(),)), histograms=make_histograms())
    page = Page(raw)
    assert {"script", "link", "iframe", "object", "base", "img"}.isdisjoint(page.tags)
    assert page.references == []
    assert b"http" not in raw.replace(b"http-equiv", b"")
    assert b"url(" not in raw


def test_the_same_input_gives_the_same_bytes() -> None:
    manifest = make_int8(plans=(make_plan(),))
    assert render(manifest=manifest, histograms=make_histograms()) == render(
        manifest=manifest, histograms=make_histograms()
    )


def test_the_chain_stands_in_its_order_whatever_order_it_was_measured_in() -> None:
    rows = (
        parity_row("tensorrt", precision="int8", arithmetic="int8 tensor cores"),
        parity_row(precision="int8", kl_divergence=3.1e-4, latency_ms=83.25),
        parity_row("openvino"),
        parity_row("torch"),
    )
    text = text_of(make_int8(parity=rows))
    chain = r"Trained network torch .* FP32 graph openvino .* This graph onnxruntime .* Plans tensorrt 1\.23\.0 cpu: i"
    assert re.search(chain, text)
    assert "0.00031" in text
    assert "83.2" in text
    assert "a batch of one image, 10 views, from pixels in memory to probabilities" in text
    assert "Accuracy" not in text.split("What INT8 costs")[0], "no row has one"


def test_accuracy_is_a_column_where_a_row_has_one() -> None:
    rows = (parity_row(), parity_row(precision="int8", images="100 given", num_images=100, top1_accuracy=0.925))
    parity = text_of(make_int8(parity=rows)).split("What INT8 costs")[0]
    assert "Accuracy" in parity
    assert "92.5 %" in parity
    assert "Latency" not in parity, "no row has one"
    assert "100 given" in parity
    assert "100 100" not in parity


@pytest.mark.parametrize("max_error", [1e-3, NAN])
def test_each_row_is_held_to_what_its_own_graph_may_cost(max_error: float) -> None:
    rows = (parity_row(max_error=max_error), parity_row(precision="int8", max_error=0.02))
    text = text_of(make_int8(parity=rows))
    assert "1 of 2 comparisons failed" in text
    assert "onnxruntime 1.23.0, fp32, golden: a number is out of tolerance" in text


@pytest.mark.parametrize(("difference", "holds"), [(0.029, True), (0.04, False), (NAN, False)])
def test_an_engine_is_held_to_what_its_own_graph_says(difference: float, holds: bool) -> None:
    manifest = make_int8()
    graph = GoldenGraph(
        probabilities=manifest.golden.probabilities,
        tolerance=Tolerance(probability=0.03, log_probability=0.3, top1_agreement=0.99),
    )
    rows = (
        parity_row(precision="int8", max_error=0.02),
        parity_row(precision="int8", max_error=difference, against="graph"),
    )
    golden = msgspec.structs.replace(manifest.golden, graph=graph)
    text = text_of(msgspec.structs.replace(manifest, golden=golden, parity=rows))
    assert ("max error 0.02 over 8 golden images on 1 engine" in text) == holds
    assert ("1 of 2 comparisons failed" in text) != holds
    assert "Tolerance, engine against its int8 graph: max error 0.03," in text


def test_a_graph_that_only_its_fp32_form_was_proved_of_is_not_proved() -> None:
    assert "Not proved yet" in text_of(make_int8(parity=(parity_row("torch"), parity_row("openvino"))))


def test_the_gate_says_what_was_lost_and_how_sure_that_is() -> None:
    raw = render(manifest=make_int8())
    text = Page(raw).text
    assert "In int8, it loses 0.28 points of top-1 on 5,000 images (limit: a drop of 0.5)." in text
    for fact in ("92.8 %", "93.1 %", "within the limit of 0.5", "−0.06 to 0.61 points", "ef56ef56ef56"):
        assert fact in text
    chart = re.search(r'class="interval".*?class="ends"', raw.decode(), re.DOTALL)
    assert chart is not None
    zero, allowed = (float(place) for place in re.findall(r'<b[^>]*left: ([\d.]+)%"></b>', chart[0]))
    ((begin, length),) = re.findall(r'<u style="left: ([\d.]+)%; width: ([\d.]+)%"', chart[0])
    ((fate, drop),) = re.findall(r'<i class="(\w+)" style="left: ([\d.]+)%"', chart[0])
    assert 0 < float(begin) < zero < float(drop) < allowed < float(begin) + float(length) < 100
    assert (float(drop) - zero) / (allowed - zero) == pytest.approx(0.28 / 0.5, abs=1e-3)
    assert fate == "held"


@pytest.mark.parametrize(("end", "is_wide"), [(0.61, True), (0.5, False)])
def test_an_interval_that_reaches_past_what_is_allowed_is_said(end: float, is_wide: bool) -> None:
    accuracy = make_accuracy(interval_points=(-0.06, end))
    assert ("extends beyond the limit" in text_of(make_int8(make_gate(accuracy=accuracy)))) == is_wide


@pytest.mark.parametrize("drop", [0.51, NAN])
def test_a_drop_that_is_not_allowed_is_the_verdict(drop: float) -> None:
    raw = render(manifest=make_int8(make_gate(accuracy=make_accuracy(drop_points=drop))))
    text = Page(raw).text
    assert "This engine disagrees with the trained network: it loses" in text
    assert "over the limit of 0.5" in text
    assert b'class="held"' not in raw
    assert (b'class="interval"' in raw) == (drop == 0.51), "NaN is not drawn"


def test_more_right_than_before_is_a_gain() -> None:
    text = text_of(make_int8(make_gate(accuracy=make_accuracy(drop_points=-0.1))))
    assert "In int8, it gains 0.10 points of top-1" in text
    assert "−0.10 within" in text


@pytest.mark.parametrize("interval", [(0.0, 0.0), (-2e-5, 3e-5), (-80.0, 100.0), (NAN, NAN)])
def test_any_interval_renders(interval: tuple[float, float]) -> None:
    accuracy = make_accuracy(drop_points=0.0, max_drop_points=0.0, interval_points=interval)
    raw = render(manifest=make_int8(make_gate(accuracy=accuracy)))
    places = [float(place) for place in re.findall(r"(?:left|width): (?:max\(2px, )?([-.\d]+)%", raw.decode())]
    assert all(0 <= place <= 100 for place in places)
    assert Page(raw).text.count("NaN") == 2 * (interval != interval or np.isnan(interval[0]))


def test_fifty_flips_are_shown_those_that_cost_something_first() -> None:
    neither = [make_flip(number, reference="container ship") for number in range(20)]
    won = [make_flip(number, reference="container ship", candidate="umbrella") for number in range(20, 40)]
    lost = [make_flip(number) for number in range(40, 70)]
    text = text_of(make_int8(make_gate(accuracy=make_accuracy(flips=(*neither, *won, *lost)))))
    assert (
        "70 of 5,000: 30 correct only in the trained network, 20 correct only in this graph, 20 wrong in both." in text
    )
    assert "20 more are not shown" in text
    shown = re.findall(r"val/(\d+)\.jpg", text)
    assert [int(number) for number in shown] == [*range(40, 70), *range(20, 40)]
    assert "val/040.jpg umbrella umbrella ✓ mountain bike" in text
    assert "val/020.jpg umbrella container ship umbrella ✓" in text


def test_few_flips_are_all_shown_and_no_flip_is_said() -> None:
    text = text_of(make_int8())
    assert "val/000.jpg" in text
    assert "more are not shown" not in text
    assert "None: on all 5,000 images" in text_of(make_int8(make_gate(accuracy=make_accuracy(flips=()))))


def test_names_cannot_become_markup() -> None:
    flip = make_flip(path=f"{EVIL}.jpg", truth=EVIL, reference=EVIL, candidate=EVIL)
    gate = make_gate(
        accuracy=make_accuracy(flips=(flip,)),
        sensitivity={EVIL: 0.1},
        fallbacks=(Fallback(layer=EVIL, because=EVIL),),
    )
    quantization = msgspec.structs.replace(make_int8().quantization, ranges={EVIL: 1.0})
    plan = make_plan(version=EVIL, target=EVIL, layers={EVIL: 1})
    manifest = make_int8(gate, quantization=quantization, plans=(plan,), parity=(parity_row(arithmetic=EVIL),))
    raw = render(manifest=manifest, histograms={EVIL: histogram_of(np.arange(9))})
    page = Page(raw)
    assert "script" not in page.tags
    assert b"<script" not in raw
    assert b'"1"' not in raw
    assert page.text.count(EVIL) >= 12, "all of them are shown"


def test_a_file_name_that_is_no_unicode_renders() -> None:
    gate = make_gate(accuracy=make_accuracy(flips=(make_flip(path="bad-\udcff.jpg"),)))
    assert b"bad-?.jpg" in render(manifest=make_int8(gate))


def test_accuracy_that_was_not_measured_is_said_with_the_remedy() -> None:
    raw = render(manifest=make_int8(make_gate(accuracy=None, calibration_agreement=0.9961)))
    text = Page(raw).text
    assert "Accuracy was not measured" in text
    assert "--data DIR" in text
    assert "99.6 % of the 512 calibration images" in text
    assert "In int8, 99.6 % of the calibration images keep their top-1 prediction." in text
    assert b'class="interval"' not in raw


@pytest.mark.parametrize("agreement", [0.98, NAN])
def test_too_little_agreement_is_the_verdict(agreement: float) -> None:
    text = text_of(make_int8(make_gate(accuracy=None, calibration_agreement=agreement)))
    assert "This engine disagrees with the trained network" in text


@pytest.mark.parametrize(("agreement", "holds"), [(15 / 16, True), (14 / 16, False)])
def test_verdict_on_few_images_is_the_gate_s(agreement: float, holds: bool) -> None:
    """One of 16 images may differ: a graph that passed the gate is not reported as a failure."""
    manifest = make_int8(make_gate(accuracy=None, calibration_agreement=agreement))
    assert manifest.quantization is not None
    few = msgspec.structs.replace(manifest.quantization.calibration, num_images=16)
    quantization = msgspec.structs.replace(manifest.quantization, calibration=few)
    text = text_of(msgspec.structs.replace(manifest, quantization=quantization))
    assert ("This engine agrees with the trained network" in text) is holds


def test_what_went_back_to_float_is_told_from_what_was_kept_there() -> None:
    raw = render(manifest=make_int8())
    text = Page(raw).text
    assert re.search(r"conv3 moved back to float .* fc8 kept in float not measured", text)
    assert f"conv3 : {FALLBACK.because}" in text
    fates = {name: fate for name, (fate, _) in bars_of(raw).items()}
    assert fates == dict.fromkeys(LAYERS, "int8") | {"conv3": "back", "fc8": "kept"}
    assert "fp16, moved back" in text
    assert "fp16, kept" in text


def test_no_fallback_is_said() -> None:
    assert "No layer was moved back to float." in text_of(make_int8(make_gate(fallbacks=())))


def test_the_costliest_layer_comes_first_whatever_the_order_of_the_file() -> None:
    costs = {"conv1": 1e-5, "conv2": 0.0, "conv4": NAN, "conv5": 1e-30, "fc6": 0.5}
    bars = bars_of(render(manifest=make_int8(make_gate(sensitivity=costs))))
    assert list(bars)[:5] == ["conv4", "fc6", "conv1", "conv5", "conv2"]
    lengths = {layer: bars[layer][1] for layer in costs}
    assert lengths["conv4"] == "100.0%", "NaN has the longest bar"
    assert lengths["conv2"] is None, "a cost of 0 has no bar"
    assert lengths["fc6"] is not None
    assert lengths["conv1"] is not None
    assert 0 < float(lengths["conv1"][:-1]) < float(lengths["fc6"][:-1]) < 100
    assert lengths["conv5"] == "0.0%", "below the scale, but still visible"
    assert bars["fc8"][1] is None


@pytest.mark.parametrize("cost", [0.0, NAN, float("inf"), 1e-300, 1e300])
def test_any_cost_renders(cost: float) -> None:
    raw = render(manifest=make_int8(make_gate(sensitivity=dict.fromkeys(LAYERS, cost))))
    places = [float(place) for place in re.findall(r"(?:left|width): (?:max\(2px, )?([-.\d]+)%", raw.decode())]
    assert all(0 <= place <= 100 for place in places)
    (length,) = {length for _, length in bars_of(raw).values()}
    assert (length is None) == (cost == 0.0)
    assert (length == "100.0%") == (not np.isfinite(cost) or cost == 1e300)


def test_the_calibration_and_every_range_are_there() -> None:
    histograms = make_histograms()
    text = text_of(make_int8(), histograms)
    assert re.search(
        r"Method percentile the 99\.99th percentile of .* Images 512 .* 12ab12ab12ab .* 34cd34cd34cd .* fp16",
        text,
    )
    share = f"{100 * histograms['conv2'].share_beyond(2.5):.2g}"
    assert re.search(rf"conv2 convolution 5 × 5, 2 groups int8 2\.50 {histograms['conv2'].largest:.3g} {share} %", text)
    assert re.search(r"conv1 convolution [^–]* int8 \S+ – –", text), "the first layer has no histogram"
    assert re.search(r"fc8 fully connected fp16, kept – \S+ –", text)


def test_without_histograms_the_ranges_are_there_and_no_more() -> None:
    for histograms in (None, {}):
        raw = render(manifest=make_int8(), histograms=histograms)
        text = Page(raw).text
        assert re.search(r"conv2 convolution 5 × 5, 2 groups int8 2\.50 conv3", text)
        assert "Largest seen" not in text
        assert not histogram_svgs(raw)


def test_each_histogram_is_small_and_shows_where_it_is_cut() -> None:
    histograms = make_histograms() | {"conv2": histogram_of(np.linspace(0, 2, 9000))}
    svgs = histogram_svgs(render(manifest=make_int8(), histograms=histograms))
    assert list(svgs) == list(LAYERS[1:])
    assert all(len(svg) < 4000 for svg in svgs.values())
    assert [layer for layer, svg in svgs.items() if 'class="edge"' not in svg] == ["conv3", "fc8"]
    assert [layer for layer, svg in svgs.items() if 'class="cut"' not in svg] == ["conv2", "conv3", "fc8"]
    text = text_of(make_int8(), histograms)
    assert "conv2 nothing beyond 2.50" in text
    assert re.search(r"conv4 8\.\d % beyond 2\.50", text)


def test_a_histogram_of_nothing_but_zeros_is_said() -> None:
    histograms = make_histograms() | {"fc6": histogram_of(np.zeros(10))}
    raw = render(manifest=make_int8(), histograms=histograms)
    assert "fc6" not in histogram_svgs(raw)
    assert "Every value was 0." in Page(raw).text


def test_plans_say_what_they_are_and_what_is_proved() -> None:
    gpu = make_plan(
        file="plans/tensorrt-10.13.3-sm-90.engine",
        backend="tensorrt",
        version="10.13.3",
        target="sm_90 NVIDIA H100",
        options=PlanOptions(is_hardware_compatible=True),
        proof="proved",
    )
    files = {gpu.file: FileEntry(sha256="0" * 64, bytes=62_400_123)}
    text = text_of(msgspec.structs.replace(make_manifest(), plans=(gpu, make_plan()), files=files))
    proved, pending = text.split("Proof")[1].split("Faults that this proof")[0].split("tensorrt-rtx 1.3.0")
    for fact in ("tensorrt 10.13.3", gpu.file, "sm_90 NVIDIA H100", "Ampere", "1 to 16", "optimised for 8", "62.4 MB"):
        assert fact in proved
    assert "5 CONVOLUTION int8, 2 LRN float32" in proved
    assert proved.rstrip().endswith("proved")
    assert "any GPU" in pending
    assert "Ampere" not in pending
    assert "– in 11 s" in pending, "its size is unknown"
    assert "pending the golden images run when it is first opened on a GPU" in pending
