// An image as the networks see it: cxrkit/data/preprocessing.py in TypeScript.

import {
  type Grey,
  type Pixels,
  blur,
  clamp,
  equalize,
  resizeBytes,
  rint,
  shrinkArea,
} from "./arrays";
import type { Description, Preparation } from "./description";

export interface Limits {
  low: number;
  high: number;
  outliers: number;
}

function histogram(image: Pixels): Uint32Array {
  const counts = new Uint32Array(image.data instanceof Uint8Array ? 256 : 65536);
  for (const value of image.data) counts[value]!++;
  return counts;
}

// The grey values that become black and white; `stretch_limits` of the package.
export function stretchLimits(image: Pixels, limitsSize: number, outlier: number): Limits {
  const counts = histogram(image);
  const total = image.data.length;
  let [p1, p99, first, last, sum] = [-1, -1, -1, -1, 0];
  counts.forEach((count, value) => {
    if (!count) return;
    sum += count;
    const share = Math.fround(sum / total);
    if (first < 0) first = value;
    last = value;
    if (p1 < 0 && share >= 0.01) p1 = value;
    if (p99 < 0 && share >= 0.99) p99 = value;
  });
  let [low, high, outliers] = [first, last, 0];
  if (p1 === p99) {
    [p1, p99] = [first, last]; // nearly everything has one value: what differs is the picture
  } else {
    const beyond = outlier * (p99 - p1);
    [low, high] = [last, first];
    counts.forEach((count, value) => {
      if (!count) return;
      if (value >= p1 - beyond && value <= p99 + beyond) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      } else {
        outliers += count;
      }
    });
  }
  let cleaned: Pixels = image;
  if (outliers) {
    const middle = p1 + Math.floor((p99 - p1) / 2);
    const data = image.data.map((value) => (value < low || value > high ? middle : value));
    cleaned = { ...image, data } as Pixels;
  }
  const [least, most] = extremes(shrunk(cleaned, limitsSize));
  return { low: Math.min(least, p1), high: Math.max(most, p99), outliers };
}

function shrunk(image: Pixels, longest: number): ArrayLike<number> {
  const scale = longest / Math.max(image.width, image.height);
  if (scale >= 1) return image.data;
  const [width, height] = [image.width, image.height].map((side) =>
    Math.max(1, rint(side * scale)),
  ) as [number, number];
  return shrinkArea(image, width, height);
}

function extremes(values: ArrayLike<number>): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < values.length; i++) {
    if (values[i]! < low) low = values[i]!;
    if (values[i]! > high) high = values[i]!;
  }
  return [low, high];
}

const greys = new WeakMap<object, Map<string, Grey>>(); // of pixels; several steps ask for them

// Grey of any depth -> 0 to 255, black to white.
export function toUint8(image: Pixels, how: string, rules: Description["preprocessing"]): Grey {
  const known = greys.get(image.data) ?? new Map<string, Grey>();
  greys.set(image.data, known);
  const found = known.get(how) ?? stretched(image, how, rules);
  known.set(how, found);
  return found;
}

function stretched(image: Pixels, how: string, rules: Description["preprocessing"]): Grey {
  let limits: { low: number; high: number };
  if (how === "min_max") {
    if (image.data instanceof Uint8Array) return image as Grey;
    const [low, high] = extremes(image.data);
    limits = { low, high };
  } else {
    limits = stretchLimits(image, rules.limits_size, rules.outlier);
  }
  const scale = 255 / Math.max(limits.high - limits.low, 1e-12);
  const table = new Uint8Array(image.data instanceof Uint8Array ? 256 : 65536);
  for (let value = 0; value < table.length; value++) {
    table[value] = rint(clamp((value - limits.low) * scale, 0, 255));
  }
  const data = new Uint8Array(image.data.length);
  for (let i = 0; i < data.length; i++) data[i] = table[image.data[i]!]!;
  return { data, width: image.width, height: image.height };
}

// Make an image square; the aspect is lost.
export function resize(image: Grey, size: number): Grey {
  if (image.width === size && image.height === size) return image;
  const larger = Math.max(image.width, image.height) > size;
  return { data: resizeBytes(image, size, size, larger), width: size, height: size };
}

// Everything before normalisation.
export function prepare(image: Pixels, how: Preparation, rules: Description["preprocessing"]): Grey {
  let grey = toUint8(image, how.stretch, rules);
  if (how.order === "resize_first") return blur(equalize(resize(grey, how.size)));
  if (how.working_size === "double") grey = resize(grey, 2 * how.size);
  return resize(blur(equalize(grey)), how.size);
}

// Grey values -> the range that a network takes.
export function normalize(
  image: Grey,
  how: string,
  rules: Description["preprocessing"],
): Float32Array {
  const { shift, scale } = rules.normalize[how]!;
  const table = new Float32Array(256).map((_, value) => (value - shift) / scale);
  const out = new Float32Array(image.data.length);
  for (let i = 0; i < out.length; i++) out[i] = table[image.data[i]!]!;
  return out;
}
