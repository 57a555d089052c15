"""Models of Triton's Python backend: our decoder, and our engine.

A repository that `alexnet-deploy triton` wrote has a model.py of one line for each, which imports one of these classes.
They run in Triton's own process, where this package must be installed.

Numbers go through DLPack in both directions: in a Triton that was built for NumPy 1 (2.51), with NumPy 2, as_numpy()
gave other numbers, and Tensor() none, without an error. Texts cannot: there as_numpy() ends the process, so the decoder
needs a Triton that was built for NumPy 2.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.errors import AlexNetDeployError, ImageError
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.serve.proof import Proved, open_proved
from alexnet_deploy.serve.protocol import ENCODED_IMAGES
from alexnet_deploy.serve.settings import ModelPlace, ServerRequest

BUNDLE = "bundle"
"""Folder of the bundle in a version's folder."""


class Decoder:
    """Decodes image files: `encoded_images` BYTES (N, 1) to `images` UINT8 (N, 256, 256, 3)."""

    policy: ImagePolicy

    def initialize(self, args: dict[str, str]) -> None:
        """Read the image policy from the model's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.policy = msgspec.convert({key: value["string_value"] for key, value in parameters.items()}, ImagePolicy)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request: the pixels of its files, or the error of the first that cannot be decoded."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

        files = pb_utils.get_input_tensor_by_name(request, ENCODED_IMAGES).as_numpy().ravel()
        try:
            pixels = np.stack([decode_image(bytes(data), self.policy) for data in files])
        except ImageError as error:
            words = f"{ENCODED_IMAGES}: {error.code.value}: {error}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(words))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor.from_dlpack(IMAGES, pixels)])


class EngineModel:
    """Runs a bundle with our engine; it is loaded only if the engine gives the golden answers in this process."""

    proved: Proved

    def initialize(self, args: dict[str, str]) -> None:
        """Open and prove the bundle in the folder of this version."""
        version = Path(args["model_repository"], args["model_version"])
        place = ModelPlace(bundle=version / BUNDLE, name=args["model_name"], version=args["model_version"])
        self.proved = open_proved(place, ServerRequest(models=(place,)), lambda words: None)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with the engine's output."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Close the engine."""
        self.proved.engine.close()

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils

        images = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, IMAGES))
        engine = self.proved.engine
        try:
            outputs = engine.run(images)
        except AlexNetDeployError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor.from_dlpack(engine.output.name, outputs)])
