// Run a graph in a runtime from npm; benchmarks/runtimes/compare.py runs this script.
//
//     node in_node.mjs ENV PACKAGE model.onnx images.u8 OUT    # writes OUT: float32 (N, K), raw

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const [env, name, model, images, out] = process.argv.slice(2);
try {
  const ort = createRequire(`${env}/`)(name);
  ort.env.wasm.numThreads = 1;
  const pixels = new Uint8Array(readFileSync(images));
  const session = await ort.InferenceSession.create(readFileSync(model));
  const shape = [pixels.length / (256 * 256 * 3), 256, 256, 3];
  const { probabilities } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
  writeFileSync(out, new Uint8Array(probabilities.data.buffer, probabilities.data.byteOffset, probabilities.data.byteLength));
} catch (error) {
  writeFileSync(out.replace(/\.f32$/, ".refused"), String(error));
  process.exit(1);
}
