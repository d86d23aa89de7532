// Masks, lungs and zones: cxrkit/data/masks.py and lung_zones.py in TypeScript.

import type { SeverityRules } from "./description";

export interface Mask {
  data: Uint8Array; // 0 or 1
  width: number;
  height: number;
}

interface Piece {
  label: number;
  area: number;
  centre: number; // mean column
}

// Connected components over edges, by falling area; the first found first where two are equal.
function components(mask: Mask): { labels: Int32Array; pieces: Piece[] } {
  const { data, width, height } = mask;
  const labels = new Int32Array(data.length);
  const pieces: Piece[] = [];
  const waiting = new Int32Array(data.length);
  for (let start = 0; start < data.length; start++) {
    if (!data[start] || labels[start]) continue;
    const label = pieces.length + 1;
    let [count, area, columns] = [0, 0, 0];
    waiting[count++] = start;
    labels[start] = label;
    while (count) {
      const place = waiting[--count]!;
      const x = place % width;
      area++;
      columns += x;
      const next = [
        x > 0 ? place - 1 : -1,
        x < width - 1 ? place + 1 : -1,
        place - width,
        place + width < width * height ? place + width : -1,
      ];
      for (const one of next) {
        if (one < 0 || !data[one] || labels[one]) continue;
        labels[one] = label;
        waiting[count++] = one;
      }
    }
    pieces.push({ label, area, centre: columns / area });
  }
  pieces.sort((a, b) => b.area - a.area || a.label - b.label);
  return { labels, pieces };
}

function only(mask: Mask, where: (place: number) => boolean): Mask {
  return { ...mask, data: mask.data.map((_, place) => (where(place) ? 1 : 0)) };
}

// The two largest components, their holes filled; `clean_mask` of the package.
export function cleanMask(mask: Mask): Mask {
  const { labels, pieces } = components(mask);
  const kept = new Set(pieces.slice(0, 2).map((piece) => piece.label));
  const lungs = only(mask, (place) => kept.has(labels[place]!));
  // background that reaches the border is outside
  const background = components(only(mask, (place) => !lungs.data[place]));
  const { width, height } = mask;
  const outside = new Set<number>();
  for (let x = 0; x < width; x++) {
    outside.add(background.labels[x]!);
    outside.add(background.labels[(height - 1) * width + x]!);
  }
  for (let y = 0; y < height; y++) {
    outside.add(background.labels[y * width]!);
    outside.add(background.labels[y * width + width - 1]!);
  }
  outside.delete(0);
  return only(mask, (place) => lungs.data[place] === 1 || !outside.has(background.labels[place]!));
}

// The patient's right lung (left of the image) and the left one; `sides` of the package.
export function sides(mask: Mask, rules: SeverityRules): [Mask, Mask] {
  const { width } = mask;
  const half = Math.floor(width / 2);
  if (rules.lung_sides === "midline") {
    return [
      only(mask, (place) => mask.data[place] === 1 && place % width < half),
      only(mask, (place) => mask.data[place] === 1 && place % width >= half),
    ];
  }
  const { labels, pieces } = components(mask);
  const empty = only(mask, () => false);
  const [first, second] = pieces;
  if (!first) return [empty, empty];
  const one = (piece: Piece) => only(mask, (place) => labels[place] === piece.label);
  if (second && second.area >= rules.debris * first.area) {
    return first.centre <= second.centre ? [one(first), one(second)] : [one(second), one(first)];
  }
  const lung = one(first);
  let inLeftHalf = 0;
  lung.data.forEach((inside, place) => {
    if (inside && place % width < half) inLeftHalf++;
  });
  const share = inLeftHalf / first.area;
  if (share >= 0.25 && share <= 0.75) return splitFused(lung);
  return first.centre < half ? [lung, empty] : [empty, lung];
}

// Both lungs in one component, cut where its middle third has the least height.
function splitFused(lung: Mask): [Mask, Mask] {
  const { data, width } = lung;
  const heights = new Uint32Array(width);
  data.forEach((inside, place) => {
    if (inside) heights[place % width]!++;
  });
  const columns = [...heights.keys()].filter((x) => heights[x]! > 0);
  const third = Math.floor(columns.length / 3);
  const start = columns[0]! + third;
  const stop = columns[0]! + Math.floor((2 * columns.length) / 3) + 1;
  let cut = start;
  for (let x = start; x < Math.min(stop, width); x++) if (heights[x]! < heights[cut]!) cut = x;
  return [
    only(lung, (place) => data[place] === 1 && place % width < cut),
    only(lung, (place) => data[place] === 1 && place % width > cut),
  ];
}

function rows(mask: Mask): [number, number] | null {
  let [top, bottom] = [-1, -1];
  mask.data.forEach((inside, place) => {
    if (!inside) return;
    bottom = Math.floor(place / mask.width);
    if (top < 0) top = bottom;
  });
  return top < 0 ? null : [top, bottom];
}

export interface Zones {
  // zone of each pixel: 0 to 2 in the right lung from above, 3 to 5 in the left one, 255 outside
  data: Uint8Array;
  width: number;
  height: number;
  extents: ([number, number] | null)[]; // first and last row that is cut, of each lung
}

// The six zones of a lung mask, cut at shares of its height; `zones_of_sides` of the package.
export function zonesOf(mask: Mask, rules: SeverityRules, cuts: [number, number]): Zones {
  const lungs = sides(mask, rules);
  const both = only(mask, (place) => !!(lungs[0].data[place] || lungs[1].data[place]));
  const data = new Uint8Array(mask.data.length).fill(255);
  const extents = lungs.map((lung, side) => {
    const whole: [number, number] = [0, mask.height - 1];
    const extent =
      rules.zone_height === "image" ? whole : rows(rules.zone_height === "own" ? lung : both);
    if (!extent) return null;
    const origin = rules.zone_origin === "lungs" ? extent[0] : 0;
    const height = extent[1] - extent[0] + 1;
    lung.data.forEach((inside, place) => {
      if (!inside) return;
      const share = (Math.floor(place / mask.width) + 0.5 - origin) / height;
      data[place] = 3 * side + (share < cuts[0] ? 0 : share < cuts[1] ? 1 : 2);
    });
    return extent;
  });
  return { data, width: mask.width, height: mask.height, extents };
}

// A mask at the size of a map, to the nearest, as torch's "nearest-exact".
export function maskAt(mask: Mask, width: number, height: number): Mask {
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.floor(((y + 0.5) * mask.height) / height), mask.height - 1);
    for (let x = 0; x < width; x++) {
      const column = Math.min(Math.floor(((x + 0.5) * mask.width) / width), mask.width - 1);
      data[y * width + x] = mask.data[row * mask.width + column]!;
    }
  }
  return { data, width, height };
}

// The six values of a severity map, in the order of `Zones`; `roi_pool` of the package.
export function poolZones(map: Float32Array, zones: Zones, how: "pixel" | "tenth"): number[] {
  const inside: number[][] = [[], [], [], [], [], []];
  zones.data.forEach((zone, place) => {
    if (zone < 6) inside[zone]!.push(map[place]!);
  });
  return inside.map((values) => {
    if (!values.length) return 0;
    values.sort((a, b) => b - a);
    const counted = how === "tenth" ? Math.floor((values.length + 9) / 10) : 1;
    let sum = 0;
    for (let i = 0; i < counted; i++) sum += values[i]!;
    return sum / counted;
  });
}

// sigmoid(slope * logit(value) + offset) of each zone; a zone that is absent stays 0.
export function calibrated(zones: number[], lines: SeverityRules["calibration"]): number[] {
  if (!lines) return zones;
  const { slope, offset, nearest } = lines;
  return zones.map((value, i) => {
    if (value <= 0) return value;
    const share = Math.min(Math.max(value, nearest), 1 - nearest);
    return 1 / (1 + Math.exp(-(slope[i]! * Math.log(share / (1 - share)) + offset[i]!)));
  });
}

export function score(zones: number[], how: "soft" | "hard"): number {
  return zones.reduce((sum, value) => sum + (how === "soft" ? value : value >= 0.5 ? 1 : 0), 0);
}

// A mask grown by `radius` px to all sides; cv2.dilate with a square kernel.
export function dilated(mask: Mask, radius: number): Mask {
  const { data, width, height } = mask;
  const across = new Uint8Array(data.length);
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = Math.max(0, x - radius);
      const to = Math.min(width - 1, x + radius);
      for (let i = from; i <= to && !across[y * width + x]; i++) {
        across[y * width + x] = data[y * width + i]!;
      }
    }
  }
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const from = Math.max(0, y - radius);
      const to = Math.min(height - 1, y + radius);
      for (let i = from; i <= to && !out[y * width + x]; i++) {
        out[y * width + x] = across[i * width + x]!;
      }
    }
  }
  return { data: out, width, height };
}
