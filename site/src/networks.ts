// The trained networks, as promises; the worker beside this file runs them.

import type { Description } from "./description";

export type Request =
  | { id: number; kind: "start"; wasm: ArrayBuffer; models: Record<string, ArrayBuffer> }
  | { id: number; kind: "run"; name: string; data: Float32Array; size: number };

export interface Answer {
  id: number;
  outputs?: Record<string, Float32Array>;
  error?: string;
}

type Outputs = Record<string, Float32Array>;

export class Networks {
  private waiting = new Map<number, { give: (out: Outputs) => void; refuse: (e: Error) => void }>();
  private asked = 0;

  private constructor(
    private worker: Worker,
    readonly about: Description,
  ) {
    worker.onmessage = (event: MessageEvent<Answer>) => {
      const { id, outputs, error } = event.data;
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error !== undefined) waiting?.refuse(new Error(error));
      else waiting?.give(outputs ?? {});
    };
  }

  // Start the worker from its source: a page that was opened as a file can load no other.
  static async start(
    source: string,
    wasm: ArrayBuffer,
    models: Record<string, ArrayBuffer>,
    about: Description,
  ): Promise<Networks> {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const networks = new Networks(new Worker(address), about);
    const copies = [wasm, ...Object.values(models)];
    await networks.ask((id) => ({ id, kind: "start", wasm, models }), copies);
    URL.revokeObjectURL(address);
    return networks;
  }

  private ask(request: (id: number) => Request, moved: Transferable[] = []): Promise<Outputs> {
    const id = ++this.asked;
    return new Promise((give, refuse) => {
      this.waiting.set(id, { give, refuse });
      this.worker.postMessage(request(id), moved);
    });
  }

  has(name: string): boolean {
    return name in this.about.networks;
  }

  // Outputs of a network for a batch of images, each (size, size) as the network takes it.
  run(name: string, data: Float32Array): Promise<Outputs> {
    const { size } = this.about.networks[name]!;
    return this.ask((id) => ({ id, kind: "run", name, data, size }));
  }
}
