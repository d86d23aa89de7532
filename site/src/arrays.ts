// Grey images as flat arrays, row by row, and the operations of OpenCV that the package uses on
// them. Each function says which; tests/core.test.mjs compares them with Python.

export interface Grey<T extends Uint8Array | Uint16Array | Float32Array = Uint8Array> {
  data: T;
  width: number;
  height: number;
}

export type Pixels = Grey<Uint8Array> | Grey<Uint16Array>;

// Half to even, as numpy's rint and OpenCV's cvRound.
export function rint(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest < 0.5) return low;
  if (rest > 0.5) return low + 1;
  return low % 2 === 0 ? low : low + 1;
}

export function clamp(value: number, low: number, high: number): number {
  return value < low ? low : value > high ? high : value;
}

interface Weight {
  from: number;
  to: number;
  weight: number;
}

// cv2.INTER_AREA along one axis that shrinks: which source cells enter which target cell.
function areaWeights(source: number, target: number): Weight[] {
  const scale = source / target;
  const found: Weight[] = [];
  for (let to = 0; to < target; to++) {
    const start = to * scale;
    const end = start + scale;
    const width = Math.min(scale, source - start);
    const last = Math.min(Math.floor(end), source - 1);
    const first = Math.min(Math.ceil(start), last);
    if (first - start > 1e-3) {
      found.push({ from: first - 1, to, weight: Math.fround((first - start) / width) });
    }
    for (let from = first; from < last; from++) {
      found.push({ from, to, weight: Math.fround(1 / width) });
    }
    if (end - last > 1e-3) {
      const share = Math.min(Math.min(end - last, 1), width) / width;
      found.push({ from: last, to, weight: Math.fround(share) });
    }
  }
  return found;
}

// Mean over areas, cv2.INTER_AREA where both axes shrink; each product is rounded to 32 bits, too.
export function shrinkArea(
  image: Grey<Uint8Array | Uint16Array | Float32Array>,
  width: number,
  height: number,
): Float32Array {
  const across = areaWeights(image.width, width);
  const down = areaWeights(image.height, height);
  const out = new Float32Array(width * height);
  const row = new Float32Array(width);
  let at = -1;
  for (const { from, to, weight } of down) {
    if (from !== at) {
      row.fill(0);
      const start = from * image.width;
      for (const step of across) {
        row[step.to]! += Math.fround(image.data[start + step.from]! * step.weight);
      }
      at = from;
    }
    const start = to * width;
    for (let x = 0; x < width; x++) out[start + x]! += Math.fround(weight * row[x]!);
  }
  return out;
}

interface Pair {
  first: number;
  second: number;
  share: number; // of the second
}

// cv2.INTER_LINEAR along one axis, or what cv2.INTER_AREA becomes where one axis grows.
function linearPairs(source: number, target: number, area: boolean, across: boolean): Pair[] {
  const scale = 1 / (target / source); // rounded twice, as OpenCV does
  const found: Pair[] = [];
  for (let to = 0; to < target; to++) {
    let first: number;
    let share: number;
    if (area) {
      first = Math.floor(to * scale);
      share = Math.fround(to + 1 - (first + 1) * (target / source));
      share = share <= 0 ? 0 : share - Math.floor(share);
    } else {
      const place = Math.fround((to + 0.5) * scale - 0.5); // OpenCV rounds here, not later
      first = Math.floor(place);
      share = place - first;
    }
    const second = clamp(first + 1, 0, source - 1);
    if (first < 0 || first >= source - 1) {
      first = clamp(first, 0, source - 1);
      if (across) share = 0; // down, the share stays, and the row counts twice
    }
    found.push({ first, second, share: Math.fround(share) });
  }
  return found;
}

function blend(
  image: Grey<Uint8Array | Uint16Array | Float32Array>,
  width: number,
  height: number,
  area: boolean,
): Float32Array {
  const across = linearPairs(image.width, width, area, true);
  const down = linearPairs(image.height, height, area, false);
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const { first, second, share } = down[y]!;
    const top = first * image.width;
    const bottom = second * image.width;
    for (let x = 0; x < width; x++) {
      const pair = across[x]!;
      const upper =
        image.data[top + pair.first]! * (1 - pair.share) +
        image.data[top + pair.second]! * pair.share;
      const lower =
        image.data[bottom + pair.first]! * (1 - pair.share) +
        image.data[bottom + pair.second]! * pair.share;
      out[y * width + x] = upper * (1 - share) + lower * share;
    }
  }
  return out;
}

// The same for bytes, in the fixed-point numbers of OpenCV: shares of 2048, cut after each product.
function blendBytes(image: Grey, width: number, height: number, area: boolean): Uint8Array {
  const across = linearPairs(image.width, width, area, true);
  const down = linearPairs(image.height, height, area, false);
  const rows = new Map<number, Int32Array>();
  const rowOf = (y: number) => {
    let row = rows.get(y);
    if (row) return row;
    row = new Int32Array(width);
    for (let x = 0; x < width; x++) {
      const { first, second, share } = across[x]!;
      const start = y * image.width;
      row[x] =
        image.data[start + first]! * rint((1 - share) * 2048) +
        image.data[start + second]! * rint(share * 2048);
    }
    rows.set(y, row);
    return row;
  };
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const { first, second, share } = down[y]!;
    const [upper, lower] = [rowOf(first), rowOf(second)];
    const [a, b] = [rint((1 - share) * 2048), rint(share * 2048)];
    for (let x = 0; x < width; x++) {
      const sum = ((a * (upper[x]! >> 4)) >> 16) + ((b * (lower[x]! >> 4)) >> 16);
      out[y * width + x] = (sum + 2) >> 2;
    }
  }
  return out;
}

// Mean of 2x2 pixels, half up: a path of its own in OpenCV.
function halved(image: Grey): Uint8Array {
  const [width, height] = [image.width / 2, image.height / 2];
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = 2 * y * image.width + 2 * x;
      const below = at + image.width;
      const { data } = image;
      out[y * width + x] = (data[at]! + data[at + 1]! + data[below]! + data[below + 1]! + 2) >> 2;
    }
  }
  return out;
}

// cv2.resize of bytes, with INTER_AREA or INTER_LINEAR.
export function resizeBytes(image: Grey, width: number, height: number, area: boolean): Uint8Array {
  const shrinks = area && image.width >= width && image.height >= height;
  if (!shrinks) return blendBytes(image, width, height, area);
  if (image.width === 2 * width && image.height === 2 * height) return halved(image);
  return toBytes(shrinkArea(image, width, height));
}

// cv2.resize with INTER_LINEAR.
export function resizeLinear(
  image: Grey<Uint8Array | Uint16Array | Float32Array>,
  width: number,
  height: number,
): Float32Array {
  return blend(image, width, height, false);
}

// cv2.resize with INTER_NEAREST.
export function resizeNearest(image: Grey<Uint8Array>, width: number, height: number): Uint8Array {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.floor((y * image.height) / height), image.height - 1) * image.width;
    for (let x = 0; x < width; x++) {
      const column = Math.min(Math.floor((x * image.width) / width), image.width - 1);
      out[y * width + x] = image.data[row + column]!;
    }
  }
  return out;
}

// Floats -> uint8, half to even, as OpenCV stores them.
export function toBytes(values: Float32Array): Uint8Array {
  const out = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = clamp(rint(values[i]!), 0, 255);
  return out;
}

// cv2.equalizeHist.
export function equalize(image: Grey): Grey {
  const counts = new Uint32Array(256);
  for (const value of image.data) counts[value]!++;
  const first = counts.findIndex((count) => count > 0);
  const total = image.data.length;
  const table = new Uint8Array(256);
  if (first < 0 || counts[first] === total) {
    return { ...image, data: new Uint8Array(image.data) };
  }
  const scale = Math.fround(255 / (total - counts[first]!));
  let sum = 0;
  for (let value = first + 1; value < 256; value++) {
    sum += counts[value]!;
    table[value] = clamp(rint(Math.fround(sum * scale)), 0, 255);
  }
  return { ...image, data: image.data.map((value) => table[value]!) };
}

// cv2.GaussianBlur with a 3x3 kernel: weights 1-2-1 each way, edges mirrored.
export function blur(image: Grey): Grey {
  const { data, width, height } = image;
  const sums = new Uint16Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const left = x > 0 ? x - 1 : Math.min(1, width - 1);
      const right = x < width - 1 ? x + 1 : Math.max(width - 2, 0);
      const row = y * width;
      sums[row + x] = data[row + left]! + 2 * data[row + x]! + data[row + right]!;
    }
  }
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const above = (y > 0 ? y - 1 : Math.min(1, height - 1)) * width;
    const below = (y < height - 1 ? y + 1 : Math.max(height - 2, 0)) * width;
    for (let x = 0; x < width; x++) {
      out[y * width + x] = (sums[above + x]! + 2 * sums[y * width + x]! + sums[below + x]! + 8) >> 4;
    }
  }
  return { data: out, width, height };
}

// Mirror image, left to right.
export function mirror(values: Float32Array, width: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += width) {
    for (let x = 0; x < width; x++) out[start + x] = values[start + width - 1 - x]!;
  }
  return out;
}
