// What a figure holds: the film, a map over it, outlines, zone lines, a scale bar, words. A scene
// becomes a list of marks, and the marks become a canvas (marks.ts) or an SVG file.

import { type Grey, type Pixels, clamp, resizeBytes, resizeLinear, rint } from "./arrays";
import type { Description } from "./description";
import { type Mask, type Zones, maskAt } from "./geometry";
import { FONT, type Mark, canvasOf } from "./marks";
import { toUint8 } from "./preprocessing";

export const GREEN = "#009e73"; // Okabe and Ito's palette, as in the package
export const ORANGE = "#e69f00";
export const SKY = "#56b4e9";

const SHOWN = 960; // px of the longer side on the canvas
const FINE = 256; // px of the side on which lesions are outlined

type Colour = [number, number, number];

// A few points of magma and of a blue-white-orange map; between them colours are mixed.
const MAGMA: Colour[] = [
  [0, 0, 4],
  [59, 15, 112],
  [140, 41, 129],
  [222, 73, 104],
  [254, 159, 109],
  [252, 253, 191],
];
const SIGNED: Colour[] = [
  [0, 114, 178],
  [86, 180, 233],
  [240, 240, 240],
  [230, 159, 0],
  [213, 94, 0],
];

function mixed(points: Colour[], share: number): Colour {
  const place = clamp(share, 0, 1) * (points.length - 1);
  const low = Math.min(Math.floor(place), points.length - 2);
  const rest = place - low;
  return points[low]!.map((value, i) => value + (points[low + 1]![i]! - value) * rest) as Colour;
}

// A film as it is shown: grey, and no larger than the canvas.
export function displayed(pixels: Pixels, about: Description): Grey {
  const grey = toUint8(pixels, about.preprocessing.image.stretch, about.preprocessing);
  const scale = SHOWN / Math.max(grey.width, grey.height);
  if (scale >= 1) return grey;
  const [width, height] = [grey.width, grey.height].map((side) => Math.max(1, rint(side * scale)));
  return { data: resizeBytes(grey, width!, height!, true), width: width!, height: height! };
}

export interface Tone {
  brightness: number; // 0 to 1; 0.5 = as in the file
  contrast: number; // 0 to 1; 0.5 = as in the file, each quarter doubles or halves it
  invert: boolean;
}

// Grey value -> what is shown of it.
function toneTable({ brightness, contrast, invert }: Tone): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, value) => {
    const shifted = (value / 255 - 1 + brightness) * 2 ** (4 * contrast - 2) + 0.5;
    return rint(255 * clamp(invert ? 1 - shifted : shifted, 0, 1));
  });
}

export function filmPicture(grey: Grey, tone: Tone): HTMLCanvasElement {
  const table = toneTable(tone);
  const [canvas, context] = canvasOf(grey.width, grey.height);
  const image = context.createImageData(grey.width, grey.height);
  const whole = new Uint32Array(image.data.buffer); // alpha, blue, green, red
  grey.data.forEach((value, i) => (whole[i] = 0xff000000 | (table[value]! * 0x010101)));
  context.putImageData(image, 0, 0);
  return canvas;
}

// A film at the size at which it is shown: enlarged once, not with every movement of a slider.
export function enlarged(film: HTMLCanvasElement): HTMLCanvasElement {
  const scale = SHOWN / Math.max(film.width, film.height);
  const width = Math.max(1, Math.round(film.width * scale));
  const height = Math.max(1, Math.round(film.height * scale));
  const [canvas, context] = canvasOf(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(film, 0, 0, width, height);
  return canvas;
}

export interface Layer {
  values: ArrayLike<number>; // (height, width)
  width: number;
  height: number;
  signed: boolean; // -1 to 1 around grey, else 0 to 1 from dark to bright
  smooth: boolean;
  inside: Mask | null; // where the layer is shown; null = everywhere
}

export function layerPicture(layer: Layer): HTMLCanvasElement {
  const { width, height, signed, values } = layer;
  const [canvas, context] = canvasOf(width, height);
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = values[i]!;
    if (Number.isNaN(value)) continue;
    const strength = Math.abs(value);
    const colour = signed ? mixed(SIGNED, (value + 1) / 2) : mixed(MAGMA, value);
    const opaque = signed ? (strength < 0.02 ? 0 : 0.15 + strength) : 0.1 + 1.2 * strength;
    image.data.set([...colour, 255 * Math.min(1, opaque)], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Where a map reaches a threshold inside the lungs, finer than its cells: the lesions.
export function involved(map: Float32Array, size: number, lungs: Mask, threshold: number): Mask {
  const fine = resizeLinear({ data: map, width: size, height: size }, FINE, FINE);
  const inside = maskAt(lungs, FINE, FINE).data;
  const data = Uint8Array.from(fine, (value, i) => (inside[i] && value >= threshold ? 1 : 0));
  return { data, width: FINE, height: FINE };
}

// The edges between inside and outside of a mask, as closed lines on a canvas of width x height:
// the path language of SVG, through the middles of the edges, so that steps become slopes.
export function outline(mask: Mask, width: number, height: number): string {
  const [stepX, stepY] = [width / mask.width, height / mask.height];
  const corners = mask.width + 1;
  const parts: string[] = [];
  for (const line of edgeLines(mask)) {
    line.forEach((corner, i) => {
      const next = line[(i + 1) % line.length]!;
      const x = ((corner % corners) + (next % corners)) / 2;
      const y = (Math.floor(corner / corners) + Math.floor(next / corners)) / 2;
      parts.push(`${i ? "L" : "M"}${(x * stepX).toFixed(1)} ${(y * stepY).toFixed(1)}`);
    });
    parts.push("Z");
  }
  return parts.join("");
}

// Closed lines of corners around the inside of a mask; corners are counted row by row.
function edgeLines(mask: Mask): number[][] {
  const corners = mask.width + 1;
  const at = (x: number, y: number) =>
    x >= 0 && y >= 0 && x < mask.width && y < mask.height && !!mask.data[y * mask.width + x];
  // each edge from its first corner to its second, the inside on its right
  const edges = new Map<number, number[]>();
  const add = (from: number, to: number) => {
    const there = edges.get(from);
    if (there) there.push(to);
    else edges.set(from, [to]);
  };
  for (let y = 0; y < mask.height; y++) {
    for (let x = 0; x < mask.width; x++) {
      if (!at(x, y)) continue;
      const corner = y * corners + x;
      if (!at(x, y - 1)) add(corner, corner + 1);
      if (!at(x + 1, y)) add(corner + 1, corner + 1 + corners);
      if (!at(x, y + 1)) add(corner + 1 + corners, corner + corners);
      if (!at(x - 1, y)) add(corner + corners, corner);
    }
  }
  const lines: number[][] = [];
  for (const [start, ends] of edges) {
    while (ends.length) {
      const line = [start];
      let corner = ends.pop()!;
      while (corner !== start) {
        line.push(corner);
        corner = edges.get(corner)!.pop()!;
      }
      lines.push(line);
    }
  }
  return lines;
}

export interface Scene {
  film: HTMLCanvasElement;
  layer: Layer | null;
  opacity: number;
  outlines: { mask: Mask; colour: string; dashed: boolean }[];
  cell: { grid: number; index: number } | null;
  zones: Zones | null;
  cuts: [number, number];
  letters: number; // px
  origin: string; // in the corner of the film
  spacing: number | null; // mm per column of the canvas
  length: (mm: string) => string; // the words beside the scale bar
}

// Height of a zone line, as a share of the film; null where there are no lungs.
export function lineHeight(zones: Zones, cut: number): number | null {
  const extent = zones.extents[0] ?? zones.extents[1];
  if (!extent) return null;
  return (extent[0] + cut * (extent[1] - extent[0] + 1)) / zones.height;
}

const drawn = new WeakMap<Uint8Array, string>(); // masks of a prediction stay, sliders move

function outlineOf(mask: Mask, width: number, height: number): string {
  const known = drawn.get(mask.data);
  if (known) return known;
  const found = outline(mask, width, height);
  drawn.set(mask.data, found);
  return found;
}

// The marks of a scene, from the back to the front.
export function marksOf(scene: Scene): Mark[] {
  const { film, layer } = scene;
  const { width, height } = film;
  const whole = { x: 0, y: 0, width, height };
  const found: Mark[] = [
    { kind: "image", source: film, ...whole, opacity: 1, smooth: true, clip: null },
  ];
  if (layer) {
    const clip = layer.inside ? outlineOf(layer.inside, width, height) : null;
    const source = layerPicture(layer);
    const { smooth } = layer;
    found.push({ kind: "image", source, ...whole, opacity: scene.opacity, smooth, clip });
  }
  for (const { mask, colour, dashed } of scene.outlines) {
    const path = outlineOf(mask, width, height);
    const dash = dashed ? [width / 60, width / 80] : [];
    found.push({ kind: "path", path, colour, line: Math.max(width / 360, 2), dash });
  }
  if (scene.cell) found.push(cellMark(scene.cell, width, height));
  if (scene.zones) found.push(...zoneMarks(scene.zones, scene.cuts, width, height));
  if (layer) found.push(...colourMarks(width, scene.letters, layer.signed));
  if (scene.spacing) found.push(...scaleMarks(scene.spacing, scene));
  const edge = width / 60;
  const place = { x: width - edge, y: height - edge, size: scene.letters };
  found.push({ kind: "text", text: scene.origin, ...place, align: "right", colour: "#fff" });
  return found;
}

function cellMark(cell: { grid: number; index: number }, width: number, height: number): Mark {
  const [across, down] = [width / cell.grid, height / cell.grid];
  const x = (cell.index % cell.grid) * across;
  const y = Math.floor(cell.index / cell.grid) * down;
  const path = `M${x} ${y}h${across}v${down}h${-across}Z`;
  return { kind: "path", path, colour: SKY, line: width / 200, dash: [] };
}

function zoneMarks(zones: Zones, cuts: [number, number], width: number, height: number): Mark[] {
  const found: Mark[] = [];
  for (const cut of cuts) {
    const line = lineHeight(zones, cut);
    if (line === null) continue;
    const path = `M0 ${line * height}H${width}`;
    const dash = [width / 40, width / 80];
    found.push({ kind: "path", path, colour: SKY, line: Math.max(width / 400, 2), dash });
  }
  return found;
}

// What the colours of a map mean: 0 to 1, or against to for.
function colourMarks(width: number, size: number, signed: boolean): Mark[] {
  const long = Math.round(width / 5);
  const high = Math.round(width / 60);
  const edge = high;
  const steps = 40;
  const found: Mark[] = [];
  for (let i = 0; i < steps; i++) {
    const colour = mixed(signed ? SIGNED : MAGMA, i / (steps - 1)).map(Math.round);
    const [from, to] = [Math.round((i * long) / steps), Math.round(((i + 1) * long) / steps)];
    const box = { x: edge + from, y: edge, width: to - from, height: high };
    found.push({ kind: "box", ...box, colour: `rgb(${colour.join(",")})` });
  }
  const place = { y: edge + high + 1.15 * size, size, colour: "#fff" };
  const [left, right] = signed ? ["\u2212", "+"] : ["0", "1"];
  found.push({ kind: "text", text: left!, x: edge, ...place, align: "left" });
  found.push({ kind: "text", text: right!, x: edge + long, ...place, align: "right" });
  return found;
}

// A bar of a round length, where the size of a pixel is known.
function scaleMarks(mm: number, scene: Scene): Mark[] {
  const { width, height } = scene.film;
  const length = [100, 50, 20, 10, 5].find((one) => one / mm < width / 3);
  if (!length) return [];
  const edge = width / 60;
  const size = scene.letters;
  const bar = { x: edge, y: height - edge - 4, width: length / mm, height: 4 };
  const place = { x: edge, y: height - edge - width / 80, size, colour: "#fff" };
  return [
    { kind: "box", ...bar, colour: "#fff" },
    { kind: "text", text: scene.length(`${length}`), ...place, align: "left" },
  ];
}

export interface Figure {
  marks: Mark[];
  width: number;
  height: number;
}

// A scene with lines of words below it, for a file: the first one is the title.
export function figureOf(scene: Scene, lines: string[]): Figure {
  const { width, height } = scene.film;
  const size = scene.letters;
  const wrapped = lines.flatMap((line, i) =>
    wrap(line, width - 2 * size, size).map((text) => ({ text, title: i === 0 })),
  );
  const step = 1.45 * size;
  const band = Math.ceil(step * wrapped.length + size);
  const back: Mark = { kind: "box", x: 0, y: height, width, height: band, colour: "#fff" };
  const words = wrapped.map(
    ({ text, title }, i): Mark => ({
      kind: "text",
      text,
      x: size,
      y: height + size * 0.6 + step * (i + 0.75),
      size,
      align: "left",
      colour: title ? "#000" : "#333",
    }),
  );
  return { marks: [...marksOf(scene), back, ...words], width, height: height + band };
}

// Lines that fit a width, broken between words.
function wrap(text: string, width: number, size: number): string[] {
  const [, context] = canvasOf(1, 1);
  context.font = `${size}px ${FONT}`;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}
