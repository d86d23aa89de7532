// Occlusion: what each diagnosis loses where a window of the film is covered with grey.

import type { Grey } from "./arrays";
import type { Networks } from "./networks";
import { diagnose } from "./predict";
import { normalize } from "./preprocessing";

export const SIDE = 6; // windows along each side
const BATCH = 6;

export interface Occlusion {
  side: number;
  drops: number[][]; // by diagnosis, (side * side): probability before minus after
}

// The prepared image with one of the windows in its mean grey.
export function covered(input: Grey, window: number): Grey {
  const { width, height } = input;
  const data = new Uint8Array(input.data);
  const grey = Math.round(input.data.reduce((sum, value) => sum + value, 0) / data.length);
  const [row, column] = [Math.floor(window / SIDE), window % SIDE];
  const edge = (i: number, length: number) => Math.round((i * length) / SIDE);
  for (let y = edge(row, height); y < edge(row + 1, height); y++) {
    data.fill(grey, y * width + edge(column, width), y * width + edge(column + 1, width));
  }
  return { data, width, height };
}

export async function occlusion(
  input: Grey,
  views: string[],
  before: number[],
  networks: Networks,
  progress: (share: number) => void,
): Promise<Occlusion> {
  const rules = networks.about.preprocessing;
  const drops = before.map(() => new Array<number>(SIDE * SIDE).fill(0));
  for (let start = 0; start < SIDE * SIDE; start += BATCH) {
    const size = input.data.length;
    const batch = new Float32Array(BATCH * size);
    for (let i = 0; i < BATCH; i++) {
      const image = normalize(covered(input, start + i), rules.image.normalize, rules);
      batch.set(image, i * size);
    }
    const { probs } = await diagnose(batch, views, networks);
    for (let i = 0; i < BATCH; i++) {
      before.forEach((value, k) => {
        drops[k]![start + i] = value - probs[i * before.length + k]!;
      });
    }
    progress((start + BATCH) / (SIDE * SIDE));
  }
  return { side: SIDE, drops };
}
