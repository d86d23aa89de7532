// PNG and JPEG -> grey in the depth of the file: cxrkit/data/rasters.py.

import { convertIndexedToRgb, decode } from "fast-png";
import { type Pixels, rint } from "../arrays";
import type { Film } from "../predict";
import { ReadError, checkSize } from "./errors";

type Samples = Uint8Array | Uint16Array;

// Grey of interleaved samples; alpha lies on black.
export function luminance(
  data: Samples,
  width: number,
  height: number,
  channels: number,
): Pixels {
  const deep = data instanceof Uint16Array;
  const most = deep ? 65535 : 255;
  const out: Samples = deep ? new Uint16Array(width * height) : new Uint8Array(width * height);
  for (let i = 0; i < out.length; i++) {
    const at = i * channels;
    let grey = data[at]!;
    if (channels > 2) {
      grey = 0.299 * data[at]! + 0.587 * data[at + 1]! + 0.114 * data[at + 2]!;
    }
    if (channels === 2 || channels === 4) grey *= data[at + channels - 1]! / most;
    out[i] = rint(grey);
  }
  return { data: out, width, height } as Pixels;
}

function size(content: Uint8Array): [number, number] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  return [view.getUint32(16), view.getUint32(20)];
}

export function readPng(content: Uint8Array): Film {
  if (content.length < 33) throw new ReadError("damaged");
  checkSize(...size(content)); // before anything is unpacked
  const found = decode(content, { checkCrc: true });
  let { data, channels } = found;
  if (found.palette) {
    data = convertIndexedToRgb(found);
    channels = data.length / (found.width * found.height);
  } else if (found.depth < 8) {
    data = unpacked(data as Uint8Array, found.width, found.height, found.depth);
  }
  const samples = data instanceof Uint16Array ? data : new Uint8Array(data);
  const pixels =
    channels === 1
      ? ({ data: samples, width: found.width, height: found.height } as Pixels)
      : luminance(samples, found.width, found.height, channels);
  return { pixels, view: null, hints: [], spacing: null };
}

// Grey of 1, 2 or 4 bits -> 0 to 255.
function unpacked(data: Uint8Array, width: number, height: number, depth: number): Uint8Array {
  const out = new Uint8Array(width * height);
  const stride = Math.ceil((width * depth) / 8);
  const most = 2 ** depth - 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      const byte = data[y * stride + (bit >> 3)]!;
      out[y * width + x] = (((byte >> (8 - depth - (bit & 7))) & most) * 255) / most;
    }
  }
  return out;
}

// Width and height that the frame of a JPEG stream states; null where there is no frame.
export function jpegSize(content: Uint8Array): [number, number, number] | null {
  let place = 2;
  while (place + 9 < content.length) {
    if (content[place] !== 0xff) return null;
    const marker = content[place + 1]!;
    if (marker === 0xff) {
      place++;
      continue;
    }
    const length = content[place + 2]! * 256 + content[place + 3]!;
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const height = content[place + 5]! * 256 + content[place + 6]!;
      return [content[place + 7]! * 256 + content[place + 8]!, height, content[place + 4]!];
    }
    if (length < 2) return null;
    place += 2 + length;
  }
  return null;
}

// The browser's own decoder; it turns a picture as its EXIF data say.
export async function decodeJpeg(content: Uint8Array): Promise<Pixels> {
  const stated = jpegSize(content);
  if (!stated) throw new ReadError("damaged");
  checkSize(stated[0], stated[1]);
  if (!endsWell(content)) throw new ReadError("cut_off");
  const blob = new Blob([content as BlobPart], { type: "image/jpeg" });
  const bitmap = await createImageBitmap(blob, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  bitmap.close();
  return luminance(new Uint8Array(data.buffer), width, height, 4);
}

// Whether the end of a JPEG stream is there; some writers add zeros behind it.
function endsWell(content: Uint8Array): boolean {
  let end = content.length;
  while (end > 2 && content[end - 1] === 0) end--;
  for (let place = end - 2; place > Math.max(end - 1024, 1); place--) {
    if (content[place] === 0xff && content[place + 1] === 0xd9) return true;
  }
  return false;
}

export async function readJpeg(content: Uint8Array): Promise<Film> {
  return { pixels: await decodeJpeg(content), view: null, hints: [], spacing: null };
}
