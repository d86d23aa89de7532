// Runs the networks in a thread of their own, so that the page answers while they compute.

import * as ort from "onnxruntime-web/wasm";
import type { Answer, Request } from "./networks";

const sessions = new Map<string, ort.InferenceSession>();

async function start(wasm: ArrayBuffer, models: Record<string, ArrayBuffer>): Promise<void> {
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.logLevel = "error";
  for (const [name, content] of Object.entries(models)) {
    sessions.set(name, await ort.InferenceSession.create(new Uint8Array(content)));
  }
}

async function run(
  name: string,
  data: Float32Array,
  size: number,
): Promise<Record<string, Float32Array>> {
  const session = sessions.get(name)!;
  const batch = data.length / (size * size);
  const image = new ort.Tensor("float32", data, [batch, 1, size, size]);
  const found = await session.run({ image });
  const out: Record<string, Float32Array> = {};
  for (const key of session.outputNames) {
    out[key] = new Float32Array(found[key]!.data as Float32Array);
  }
  return out;
}

self.onmessage = async (event: MessageEvent<Request>) => {
  const request = event.data;
  const answer: Answer = { id: request.id };
  try {
    if (request.kind === "start") await start(request.wasm, request.models);
    else answer.outputs = await run(request.name, request.data, request.size);
  } catch (error) {
    answer.error = error instanceof Error ? error.message : String(error);
  }
  postMessage(answer);
};
