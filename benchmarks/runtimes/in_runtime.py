"""Run a graph in another runtime; benchmarks/runtimes/compare.py runs this script in the runtime's own environment.

    python in_runtime.py RUNTIME model.onnx images.u8 OUT    # writes OUT: float32 (N, K), raw

Does not import alexnet_deploy, which is not installed there.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

IMAGE = (256, 256, 3)


class RefusedError(Exception):
    """A tool ended without output; the message is what it printed."""


def onnxruntime(model: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(str(model)).run(["probabilities"], {"images": images})[0]


def openvino(model: Path, images: np.ndarray) -> np.ndarray:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(model), "CPU", settings)({"images": images})["probabilities"]


def opencv(model: Path, images: np.ndarray) -> np.ndarray:
    """OpenCV's default engine: in OpenCV 5 the new one, or the classic one if that cannot load the graph."""
    import cv2

    net = cv2.dnn.readNetFromONNX(str(model))
    net.setInput(images)
    return net.forward()


def opencv_classic(model: Path, images: np.ndarray) -> np.ndarray:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(model), engine=cv2.dnn.ENGINE_CLASSIC)
    net.setInput(images)
    return net.forward()


def tract(model: Path, images: np.ndarray) -> np.ndarray:
    import tract

    return tract.onnx().load(model).into_model().into_runnable().run([images])[0].to_numpy()


def mnn(model: Path, images: np.ndarray) -> np.ndarray:
    # Not the wheel's `mnnconvert`: on import it installs a logging package with pip, and reports each use.
    import _tools

    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.mnn"
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(converted), "--bizCode", "x"]
        _tools.mnnconvert(words)
        if not converted.exists():
            raise RefusedError("the converter wrote no model")
        import MNN

        net = MNN.nn.load_module_from_file(str(converted), ["images"], ["probabilities"])
        expr = MNN.expr
        return np.array(net.forward([expr.const(images, list(images.shape), expr.NCHW, expr.uint8)])[0].read())


def ncnn(model: Path, images: np.ndarray) -> np.ndarray:
    import ncnn

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"
        copy.write_bytes(model.read_bytes())
        shape = ",".join(map(str, images.shape))
        tool = Path(sys.executable).with_name("pnnx")
        done = subprocess.run([tool, copy, f"inputshape=[{shape}]u8"], capture_output=True, text=True, check=False)
        said = [line for line in (done.stdout + done.stderr).splitlines() if "not supported" in line]
        if done.returncode or said:
            raise RefusedError(f"pnnx: {said[0] if said else done.stderr}")
        with ncnn.Net() as net:
            if net.load_param(str(copy.with_suffix(".ncnn.param"))):
                raise RefusedError("load_param failed")
            net.load_model(str(copy.with_suffix(".ncnn.bin")))
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(images, batch_index=0).clone())
                return np.array(extractor.extract("out0")[1].numpy(batch_index=233))


def tinygrad(model: Path, images: np.ndarray) -> np.ndarray:
    # tinygrad calls `clang`, which the ziglang package contains.
    with tempfile.TemporaryDirectory() as folder:
        compiler = Path(folder) / "clang"
        compiler.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ziglang clang "$@"\n')
        compiler.chmod(0o755)
        os.environ |= {"CC": str(compiler), "DEV": "CPU"}
        from tinygrad import Tensor
        from tinygrad.nn.onnx import OnnxRunner

        return OnnxRunner(str(model))({"images": Tensor(images)})["probabilities"].numpy()


def tvm(model: Path, images: np.ndarray) -> np.ndarray:
    import onnx
    import tvm
    from tvm.relax import VirtualMachine
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(model), shape_dict={"images": list(images.shape)})
    machine = VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(images)).numpy()


def onnx2torch(model: Path, images: np.ndarray) -> np.ndarray:
    import onnx2torch
    import torch

    with torch.inference_mode():
        return onnx2torch.convert(str(model)).eval()(torch.from_numpy(images)).numpy()


def onnx2tf(model: Path, images: np.ndarray) -> np.ndarray:
    import tensorflow

    with tempfile.TemporaryDirectory() as folder:
        tool = Path(sys.executable).with_name("onnx2tf")
        done = subprocess.run(
            [tool, "-i", model, "-o", folder, "-b", str(len(images))], capture_output=True, text=True, check=False
        )
        converted = sorted(Path(folder).glob("*_float32.tflite"))
        if done.returncode or not converted:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise RefusedError(said[0] if said else (done.stderr.strip().splitlines() or ["no output"])[-1])
        net = tensorflow.lite.Interpreter(str(converted[0]))
        net.allocate_tensors()
        net.set_tensor(net.get_input_details()[0]["index"], images)
        net.invoke()
        return np.array(net.get_tensor(net.get_output_details()[0]["index"]))


RUNTIMES: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {
    run.__name__: run
    for run in (onnxruntime, openvino, opencv, opencv_classic, tract, mnn, ncnn, tinygrad, tvm, onnx2torch, onnx2tf)
}


def main() -> None:
    name, model, images, out = sys.argv[1:]
    numbers = np.fromfile(images, np.uint8).reshape(-1, *IMAGE)
    # Keeps the progress output of tools out of stdout.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = RUNTIMES[name](Path(model).absolute(), numbers)
        except Exception as error:
            Path(out).with_suffix(".refused").write_text(
                str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
            )
            raise SystemExit(1) from error
    answer.astype("<f4").tofile(out)


if __name__ == "__main__":
    main()
