// Quality control: cxrkit/inference/quality.py in TypeScript. Each hint is a key of the strings,
// with the numbers that belong in it.

import { type Grey, type Pixels, equalize, resizeBytes } from "./arrays";
import type { Description } from "./description";
import { type Mask, dilated, sides } from "./geometry";
import { normalize, resize, toUint8 } from "./preprocessing";

export interface Hint {
  key: string;
  values?: Record<string, string>;
}

export function qualityInput(image: Pixels, about: Description): Float32Array {
  const how = about.preprocessing.quality;
  const grey = toUint8(image, how.stretch, about.preprocessing);
  return normalize(equalize(resize(grey, how.size)), how.normalize, about.preprocessing);
}

export function faults(probs: ArrayLike<number>, about: Description): Hint[] {
  const { faults: names, thresholds } = about.quality;
  const found = Object.keys(names).filter((name, i) => probs[i]! > thresholds[name]!);
  const shown = found.includes("not_frontal") ? ["not_frontal"] : found;
  return shown.map((name) => ({ key: `fault_${name}` }));
}

function counts(grey: Grey): Uint32Array {
  const found = new Uint32Array(256);
  for (const value of grey.data) found[value]!++;
  return found;
}

// numpy's percentile of a histogram, linear between neighbours.
function percentile(histogram: Uint32Array, n: number, share: number): number {
  const place = (n - 1) * share;
  const below = Math.floor(place);
  const at = (rank: number) => {
    let sum = 0;
    for (let value = 0; value < 256; value++) {
      sum += histogram[value]!;
      if (sum > rank) return value;
    }
    return 255;
  };
  const low = at(below);
  return low + (at(Math.min(below + 1, n - 1)) - low) * (place - below);
}

// Mean absolute Laplacian at 256 px over the standard deviation of grey.
function grain(grey: Grey): number {
  const [size, small] = [256, resizeBytes(grey, 256, 256, true)];
  let [sum, squares, edges] = [0, 0, 0];
  const near = (i: number) => (i < 0 ? 1 : i >= size ? size - 2 : i);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const value = small[y * size + x]!;
      sum += value;
      squares += value * value;
      const around =
        small[near(y - 1) * size + x]! +
        small[near(y + 1) * size + x]! +
        small[y * size + near(x - 1)]! +
        small[y * size + near(x + 1)]!;
      edges += Math.abs(around - 4 * value);
    }
  }
  const n = size * size;
  const deviation = Math.sqrt(Math.max(squares / n - (sum / n) ** 2, 0));
  return edges / n / Math.max(deviation, 1);
}

// The simple measures of an image, by name.
export function quantities(image: Pixels, about: Description): Record<string, number> {
  const grey =
    image.data instanceof Uint8Array
      ? (image as Grey)
      : toUint8(image, "robust", about.preprocessing);
  const histogram = counts(grey);
  const n = grey.data.length;
  return {
    aspect: grey.width / grey.height,
    contrast: (percentile(histogram, n, 0.95) - percentile(histogram, n, 0.05)) / 255,
    flat: Math.max(...histogram) / n,
    grain: grain(grey),
  };
}

function outOfRange(image: Pixels, about: Description): Hint[] {
  const found: Hint[] = [];
  for (const [name, value] of Object.entries(quantities(image, about))) {
    const [low, high] = about.quality.ranges[name]!;
    if (value >= low && value <= high) continue;
    const values = {
      value: value.toPrecision(2),
      low: low.toPrecision(2),
      high: high.toPrecision(2),
    };
    found.push({ key: `range_${name}`, values });
  }
  return found;
}

// How often a pixel beside the lungs is brighter than one in them; ties count half.
export function lungContrast(image: Pixels, mask: Mask, about: Description): number {
  const size = mask.width;
  const grey = resize(toUint8(image, "robust", about.preprocessing), size);
  const near = dilated(mask, Math.max(1, Math.floor(size / 128)));
  const far = dilated(mask, Math.max(2, Math.floor((6 * size) / 128)));
  const inside = new Float64Array(256);
  const beside = new Float64Array(256);
  let [insides, besides] = [0, 0];
  grey.data.forEach((value, place) => {
    if (mask.data[place]) {
      inside[value]!++;
      insides++;
    } else if (far.data[place] && !near.data[place]) {
      beside[value]!++;
      besides++;
    }
  });
  if (!insides || !besides) return NaN;
  let [sum, found] = [0, 0];
  for (let value = 0; value < 256; value++) {
    sum += inside[value]!;
    found += (beside[value]! / besides) * ((sum - inside[value]! / 2) / insides);
  }
  return found;
}

function total(mask: Mask): number {
  return mask.data.reduce((sum, inside) => sum + inside, 0);
}

// Why what the segmenter found is no pair of lungs; empty for a pair of lungs.
export function lungsMissing(
  image: Pixels,
  mask: Mask,
  straight: Float32Array,
  mirrored: Float32Array,
  about: Description,
): Hint[] {
  const rules = about.quality;
  const [smaller, larger] = sides(mask, {
    ...about.severity,
    lung_sides: "components",
  })
    .map(total)
    .sort((a, b) => a - b) as [number, number];
  const share = (smaller + larger) / mask.data.length;
  if (share < rules.lung_share) {
    return [{ key: "lungs_small", values: { share: `${Math.round(100 * share)} %` } }];
  }
  if (smaller < rules.lung_balance * larger) return [{ key: "lungs_one" }];
  let [unsure, common, sum] = [0, 0, 0];
  for (let i = 0; i < straight.length; i++) {
    const [a, b] = [straight[i]!, mirrored[i]!];
    const mean = (a + b) / 2;
    unsure += 4 * mean * (1 - mean);
    common += Math.min(a, b);
    sum += a + b;
  }
  const covered = Math.max(total(mask) / mask.data.length, 1e-3);
  if (unsure / straight.length / covered > rules.lung_uncertainty) {
    return [{ key: "lungs_uncertain" }];
  }
  if ((2 * common) / Math.max(sum, 1e-6) < rules.lung_agreement) return [{ key: "lungs_mirror" }];
  if (lungContrast(image, mask, about) < rules.lung_contrast) return [{ key: "lungs_bright" }];
  return [];
}

// All hints about an image, before a prediction for it is believed.
export function hints(
  image: Pixels,
  mask: Mask,
  probs: ArrayLike<number>,
  straight: Float32Array,
  mirrored: Float32Array,
  about: Description,
): Hint[] {
  const found = [...faults(probs, about), ...outOfRange(image, about)];
  const { smallest } = about.quality;
  if (Math.min(image.width, image.height) < smallest) {
    const values = { width: `${image.width}`, height: `${image.height}`, size: `${smallest}` };
    found.push({ key: "too_small", values });
  }
  if (found.some((hint) => hint.key === "fault_not_frontal")) return found;
  return [...found, ...lungsMissing(image, mask, straight, mirrored, about)];
}
