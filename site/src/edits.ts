// Counterfactual edits: what the networks would say if the film were another one. As in
// cxrkit/reading_room/edits.py, what is erased becomes the mean grey of the film.

import { type Pixels, rint, resizeNearest } from "./arrays";
import { type Mask, sides } from "./geometry";
import type { SeverityRules } from "./description";

export const EDITS = ["right", "left", "outside", "marker"] as const;
export type Edit = (typeof EDITS)[number];

export interface Dab {
  x: number; // shares of width and height
  y: number;
}

const BRUSH = 0.045; // radius, as a share of the width
const MARKER = { left: 0.04, top: 0.05, size: 0.11 }; // shares of the width

function copy(pixels: Pixels): Pixels {
  return { ...pixels, data: pixels.data.slice() } as Pixels;
}

function meanGrey(pixels: Pixels): number {
  let sum = 0;
  for (const value of pixels.data) sum += value;
  return rint(sum / pixels.data.length);
}

function brightest(pixels: Pixels): number {
  let found = 0;
  for (const value of pixels.data) if (value > found) found = value;
  return found;
}

function atSize(mask: Mask, pixels: Pixels): Uint8Array {
  return resizeNearest(mask, pixels.width, pixels.height);
}

// A film with an edit. The lungs are those of the film without edits.
export function edited(pixels: Pixels, edit: Edit, lungs: Mask, rules: SeverityRules): Pixels {
  const found = copy(pixels);
  if (edit === "marker") {
    paintMarker(found);
    return found;
  }
  const [right, left] = sides(lungs, rules);
  const inside = atSize(edit === "right" ? right : edit === "left" ? left : lungs, pixels);
  const grey = meanGrey(pixels);
  const wanted = edit === "outside" ? 0 : 1;
  inside.forEach((value, i) => {
    if (value === wanted) found.data[i] = grey;
  });
  return found;
}

// The letter L as a technician sets it, in the upper corner of the image's left side.
function paintMarker(pixels: Pixels): void {
  const { width, height } = pixels;
  const size = Math.max(6, Math.round(MARKER.size * width));
  const thick = Math.max(2, Math.round(size / 5));
  const left = Math.round(MARKER.left * width);
  const top = Math.round(MARKER.top * height);
  const white = brightest(pixels);
  for (let y = 0; y < size && top + y < height; y++) {
    for (let x = 0; x < 0.65 * size && left + x < width; x++) {
      if (x < thick || y >= size - thick) pixels.data[(top + y) * width + left + x] = white;
    }
  }
}

// A film with grey painted over it.
export function brushed(pixels: Pixels, dabs: Dab[]): Pixels {
  const found = copy(pixels);
  const { width, height } = pixels;
  const grey = meanGrey(pixels);
  const radius = BRUSH * width;
  for (const dab of dabs) {
    const [x, y] = [dab.x * width, dab.y * height];
    for (let i = Math.max(0, Math.floor(y - radius)); i < Math.min(height, y + radius); i++) {
      for (let j = Math.max(0, Math.floor(x - radius)); j < Math.min(width, x + radius); j++) {
        if ((i - y) ** 2 + (j - x) ** 2 <= radius ** 2) found.data[i * width + j] = grey;
      }
    }
  }
  return found;
}
