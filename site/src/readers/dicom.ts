// DICOM -> one grey film as a viewer shows it: cxrkit/data/dicom.py and inference/dicom_tags.py.

import charls from "@cornerstonejs/codec-charls/decode";
import openjpeg from "@cornerstonejs/codec-openjpeg/decode";
import * as parser from "dicom-parser";
import { inflateSync } from "fflate";
import { Decoder } from "jpeg-lossless-decoder-js";
import { type Pixels, clamp, rint } from "../arrays";
import type { Film } from "../predict";
import type { Hint } from "../quality";
import { ReadError, checkSize } from "./errors";
import { decodeJpeg, jpegSize, luminance } from "./rasters";

const DEFLATED = "1.2.840.10008.1.2.1.99";
const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const RLE = "1.2.840.10008.1.2.5";
const JPEG_BASELINE = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"];
const JPEG_LOSSLESS = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
const JPEG_LS = ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"];
const JPEG_2000 = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];
const RADIOGRAPHY = ["CR", "DX", "RG", "DR", "OT", "SC"];
const CHEST = ["CHEST", "THORAX", "LUNG", "THX", "TORAX", "RIB", "PULM"];
const IDENTIFIERS = ["x00100010", "x00100020", "x00100030", "x00080050"];

export function isDicom(content: Uint8Array): boolean {
  if (String.fromCharCode(...content.subarray(128, 132)) === "DICM") return true;
  const group = content[0]! + 256 * content[1]!;
  return group === 0x0008 || group === 0x0002 || (content[0] === 0 && content[1] === 8);
}

function parse(content: Uint8Array): parser.DataSet {
  const options = {
    inflater: (bytes: Uint8Array, position: number) => {
      const rest = inflateSync(bytes.subarray(position));
      const whole = new Uint8Array(position + rest.length);
      whole.set(bytes.subarray(0, position));
      whole.set(rest, position);
      return whole;
    },
  };
  const head = String.fromCharCode(...content.subarray(128, 132));
  if (head === "DICM") return parser.parseDicom(content, options as parser.ParseDicomOptions);
  // no preamble: the transfer syntax is not stated, and implicit little endian is the default
  const explicit = /[A-Z]{2}/.test(String.fromCharCode(content[4]!, content[5]!));
  return parser.parseDicom(content, {
    TransferSyntaxUID: explicit ? "1.2.840.10008.1.2.1" : "1.2.840.10008.1.2",
  });
}

function text(data: parser.DataSet, tag: string): string {
  return (data.string(tag) ?? "").trim().toUpperCase();
}

function numbers(data: parser.DataSet, tag: string): number[] {
  return text(data, tag).split("\\").filter(Boolean).map(Number);
}

export async function readDicom(content: Uint8Array): Promise<Film> {
  const data = parse(content);
  const syntax = (data.string("x00020010") ?? "").trim();
  const element = data.elements.x7fe00010;
  if (!element) throw new ReadError("no_pixels");
  const frames = Number(text(data, "x00280008") || 1);
  if (frames > 1) throw new ReadError("frames", { count: `${frames}` });
  const [height, width] = [data.uint16("x00280010") ?? 0, data.uint16("x00280011") ?? 0];
  checkSize(width, height);
  const stored = await decoded(data, element, syntax, content, width, height);
  const { pixels, hints } = shown(data, stored, width, height);
  const spacing = [numbers(data, "x00181164"), numbers(data, "x00280030")].find(
    (pair) => pair.length === 2 && pair.every((side) => Number.isFinite(side) && side > 0),
  );
  return {
    pixels,
    view: viewOf(text(data, "x00185101")),
    hints: [...hints, ...headerHints(data)],
    spacing: (spacing as [number, number] | undefined) ?? null,
  };
}

function viewOf(position: string): string | null {
  if (!position || position === "UNKNOWN") return null;
  return position;
}

// What a header says that speaks against reading the film as an adult's frontal chest film.
function headerHints(data: parser.DataSet): Hint[] {
  const found: Hint[] = [];
  const say = (key: string, value: string) => found.push({ key, values: { value } });
  if (IDENTIFIERS.some((tag) => text(data, tag))) say("identifiers", "");
  const modality = text(data, "x00080060");
  if (modality && !RADIOGRAPHY.includes(modality)) say("modality", modality);
  const part = text(data, "x00180015");
  if (part && !CHEST.some((word) => part.includes(word))) say("body_part", part);
  const age = /^(\d{1,3})([YMWD]?)$/.exec(text(data, "x00101010"));
  const years = { Y: 1, M: 1 / 12, W: 7 / 365.25, D: 1 / 365.25 };
  if (age && Number(age[1]) * years[(age[2] || "Y") as keyof typeof years] < 18) say("child", age[0]);
  const [row, column] = text(data, "x00200020").split("\\");
  if (row && column && !(row.startsWith("L") && column.startsWith("F"))) {
    say("orientation", `${row}\\${column}`);
  }
  if (text(data, "x00080068") === "FOR PROCESSING") say("raw", "");
  if (text(data, "x00187034") === "YES") say("flip_tag", "");
  return found;
}

interface Stored {
  data: ArrayLike<number>; // one number a sample
  samples: number;
  bytes: number; // of a sample
}

async function decoded(
  data: parser.DataSet,
  element: parser.Element,
  syntax: string,
  content: Uint8Array,
  width: number,
  height: number,
): Promise<Stored> {
  const samples = data.uint16("x00280002") ?? 1;
  const allocated = data.uint16("x00280100") ?? 8;
  const signed = (data.uint16("x00280103") ?? 0) === 1;
  const bytes = allocated / 8;
  if (![1, 2, 4].includes(bytes)) throw new ReadError("bits", { bits: `${allocated}` });
  const count = width * height * samples;
  if (!element.encapsulatedPixelData) {
    const base = syntax === DEFLATED ? data.byteArray : content;
    const start = element.dataOffset;
    const length = count * bytes;
    if (element.length < length || start + length > base.length) throw new ReadError("cut_off");
    const raw = base.slice(start, start + length) as Uint8Array;
    const values = numbersOf(raw, bytes, signed, syntax === BIG_ENDIAN);
    const planar = samples === 3 && data.uint16("x00280006") === 1;
    return { data: planar ? interleaved(values, samples) : values, samples, bytes };
  }
  const stream = fragment(data, element);
  if (syntax === RLE) {
    const raw = unpackBits(stream, count * bytes, width * height);
    return { data: numbersOf(raw, bytes, signed, false), samples, bytes };
  }
  if (JPEG_BASELINE.includes(syntax)) {
    const stated = jpegSize(stream);
    if (stated && stated[2] > 8) throw new ReadError("jpeg_12");
    sameSize(stated, width, height);
    const grey = await decodeJpeg(stream);
    return { data: grey.data, samples: 1, bytes: 1 };
  }
  if (JPEG_LOSSLESS.includes(syntax)) {
    sameSize(jpegSize(stream), width, height);
    const copy = new Uint8Array(stream);
    const raw = new Decoder().decompress(copy.buffer, 0, copy.length);
    const values = numbersOf(new Uint8Array(raw), bytes, signed, false);
    if (values.length < count) throw new ReadError("damaged");
    return { data: values, samples, bytes };
  }
  const codec = JPEG_LS.includes(syntax) ? charls : JPEG_2000.includes(syntax) ? openjpeg : null;
  if (!codec) throw new ReadError("syntax", { syntax });
  return withCodec(await codec(), JPEG_LS.includes(syntax), stream, width, height);
}

function sameSize(stated: [number, number, number] | null, width: number, height: number): void {
  if (!stated) throw new ReadError("damaged");
  if (stated[0] !== width || stated[1] !== height) {
    throw new ReadError("other_size", {
      header: `${width} x ${height}`,
      picture: `${stated[0]} x ${stated[1]}`,
    });
  }
}

// The compressed picture: all fragments of the only frame, without the table of offsets.
function fragment(data: parser.DataSet, element: parser.Element): Uint8Array {
  const fragments = element.fragments ?? [];
  if (!fragments.length) throw new ReadError("no_pixels");
  return parser.readEncapsulatedPixelDataFromFragments(
    data,
    element,
    0,
    fragments.length,
  ) as Uint8Array;
}

function numbersOf(
  raw: Uint8Array,
  bytes: number,
  signed: boolean,
  bigEndian: boolean,
): ArrayLike<number> {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const n = Math.floor(raw.length / bytes);
  if (bytes === 1) return signed ? new Int8Array(raw.buffer, raw.byteOffset, n) : raw;
  if (bytes === 2) {
    const out = signed ? new Int16Array(n) : new Uint16Array(n);
    for (let i = 0; i < n; i++) {
      out[i] = signed ? view.getInt16(2 * i, !bigEndian) : view.getUint16(2 * i, !bigEndian);
    }
    return out;
  }
  const out = signed ? new Int32Array(n) : new Uint32Array(n);
  for (let i = 0; i < n; i++) {
    out[i] = signed ? view.getInt32(4 * i, !bigEndian) : view.getUint32(4 * i, !bigEndian);
  }
  return out;
}

function interleaved(values: ArrayLike<number>, samples: number): Float64Array {
  const n = values.length / samples;
  const out = new Float64Array(values.length);
  for (let k = 0; k < samples; k++) {
    for (let i = 0; i < n; i++) out[i * samples + k] = values[k * n + i]!;
  }
  return out;
}

// RLE (PS3.5 annex G): one segment for each byte of a sample, the highest byte first.
function unpackBits(stream: Uint8Array, length: number, pixels: number): Uint8Array {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const segments = view.getUint32(0, true);
  if (segments * pixels !== length || segments > 15) throw new ReadError("damaged");
  const out = new Uint8Array(length);
  const bytes = segments; // of all samples of a pixel, so far only grey is met
  for (let s = 0; s < segments; s++) {
    let place = view.getUint32(4 + 4 * s, true);
    const end = s + 1 < segments ? view.getUint32(8 + 4 * s, true) : stream.length;
    let n = 0;
    while (n < pixels && place < end) {
      const code = view.getInt8(place++);
      const run = code < 0 ? 1 - code : code + 1;
      if (code === -128) continue;
      if (place + (code < 0 ? 1 : run) > stream.length) throw new ReadError("cut_off");
      for (let i = 0; i < run && n < pixels; i++, n++) {
        out[n * bytes + (bytes - 1 - s)] = stream[code < 0 ? place : place + i]!;
      }
      place += code < 0 ? 1 : run;
    }
    if (n < pixels) throw new ReadError("cut_off");
  }
  return out;
}

// OpenJPEG and CharLS share one way of being called.
function withCodec(
  codec: any,
  lossless: boolean,
  stream: Uint8Array,
  width: number,
  height: number,
): Stored {
  const decoder = lossless ? new codec.JpegLSDecoder() : new codec.J2KDecoder();
  try {
    decoder.getEncodedBuffer(stream.length).set(stream);
    decoder.decode();
    const info = decoder.getFrameInfo();
    sameSize([info.width, info.height, 0], width, height);
    const bytes = info.bitsPerSample > 8 ? 2 : 1;
    const raw = new Uint8Array(decoder.getDecodedBuffer());
    const values = numbersOf(raw, bytes, info.isSigned ?? false, false);
    if (values.length < width * height * info.componentCount) throw new ReadError("cut_off");
    return { data: values, samples: info.componentCount, bytes };
  } finally {
    decoder.delete();
  }
}

// Stored values -> as a viewer shows them (PS3.3 C.11, PS3.4 N.2).
function shown(
  data: parser.DataSet,
  stored: Stored,
  width: number,
  height: number,
): { pixels: Pixels; hints: Hint[] } {
  const hints: Hint[] = [];
  const photometric = text(data, "x00280004");
  if (photometric === "PALETTE COLOR") throw new ReadError("palette");
  if (stored.samples > 1) {
    const deep = stored.bytes > 1;
    const samples = deep ? Uint16Array.from(stored.data) : Uint8Array.from(stored.data);
    return { pixels: luminance(samples, width, height, stored.samples), hints };
  }
  const signed = (data.uint16("x00280103") ?? 0) === 1;
  const bits = data.uint16("x00280101") ?? 8 * stored.bytes;
  let [low, high] = signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  const raw = Float64Array.from(stored.data);
  for (const value of raw) {
    if (value < low || value > high) {
      hints.push({ key: "extra_bits", values: { bits: `${bits}` } });
      [low, high] = extremes(raw);
      break;
    }
  }
  const padding = data.elements.x00280120
    ? signed
      ? data.int16("x00280120")
      : data.uint16("x00280120")
    : undefined;
  const slope = numbers(data, "x00281053")[0] ?? 1;
  const intercept = numbers(data, "x00281052")[0] ?? 0;
  let values: Float64Array = raw;
  if (Number.isFinite(slope) && slope !== 0 && (slope !== 1 || intercept !== 0)) {
    values = raw.map((value) => value * slope + intercept);
    [low, high] = [low * slope + intercept, high * slope + intercept].sort((a, b) => a - b) as [
      number,
      number,
    ];
  }
  const modality = table(data, "x00283000");
  const presentation = table(data, "x00283010");
  if (modality) [values, low, high] = lookedUp(raw, modality, signed);
  const windowed = presentation
    ? named(lookedUp(values, presentation, low < 0))
    : applyWindow(data, values, low, high, hints);
  values = windowed.values;
  [low, high] = [windowed.low, windowed.high];
  const inverse = text(data, "x20500020") === "INVERSE";
  if (photometric === "MONOCHROME1" || inverse) values = values.map((value) => low + high - value);
  if (padding !== undefined) values = withoutPadding(values, raw, padding);
  return { pixels: unsigned(values, width, height, stored.bytes === 1), hints };
}

function extremes(values: Float64Array): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

type Window = (value: number, center: number, width: number) => number;
const WINDOWS: Record<string, Window> = {
  LINEAR: (value, center, width) =>
    width === 1 ? (value > center - 0.5 ? 1 : 0) : (value - (center - 0.5)) / (width - 1) + 0.5,
  LINEAR_EXACT: (value, center, width) => (value - center) / width + 0.5,
  SIGMOID: (value, center, width) =>
    1 / (1 + Math.exp(clamp((-4 * (value - center)) / width, -700, 700))),
};

function applyWindow(
  data: parser.DataSet,
  values: Float64Array,
  low: number,
  high: number,
  hints: Hint[],
): { values: Float64Array; low: number; high: number } {
  const [center] = numbers(data, "x00281050");
  const [width] = numbers(data, "x00281051");
  if (center === undefined || width === undefined) return { values, low, high };
  const how = text(data, "x00281056") || "LINEAR";
  const window = WINDOWS[how] ?? WINDOWS.LINEAR!;
  if (!Number.isFinite(center + width) || width < (window === WINDOWS.LINEAR ? 1 : 1e-9)) {
    hints.push({ key: "window", values: { value: `${width}` } });
    return { values, low, high };
  }
  const top = low >= 0 && high <= 255 ? 255 : 65535;
  const found = values.map((value) => rint(clamp(window(value, center, width), 0, 1) * top));
  const [least, most] = extremes(found);
  if (least === most) {
    hints.push({ key: "window", values: { value: `${width}` } });
    return { values, low, high };
  }
  return { values: found, low: 0, high: top };
}

function table(data: parser.DataSet, tag: string): parser.DataSet | undefined {
  return data.elements[tag]?.items?.[0]?.dataSet;
}

function named([values, low, high]: [Float64Array, number, number]) {
  return { values, low, high };
}

// Grey values through a LUT (PS3.3 C.11.1.1).
function lookedUp(
  values: Float64Array,
  item: parser.DataSet,
  signed: boolean,
): [Float64Array, number, number] {
  const entries = item.uint16("x00283002", 0) || 65536;
  const first = (signed ? item.int16("x00283002", 1) : item.uint16("x00283002", 1)) ?? 0;
  const bits = item.uint16("x00283002", 2) ?? 16;
  const element = item.elements.x00283006;
  if (!element) throw new ReadError("damaged");
  const bytes = item.byteArray.slice(element.dataOffset, element.dataOffset + element.length);
  const narrow = element.length === entries || element.length === entries + (entries % 2);
  const found = numbersOf(bytes as Uint8Array, narrow ? 1 : 2, false, false);
  if (found.length < entries) throw new ReadError("damaged");
  const high = Math.max(2 ** bits - 1, ...extremes(Float64Array.from(found)));
  return [values.map((value) => found[clamp(rint(value) - first, 0, entries - 1)]!), 0, high];
}

// Where no picture is becomes the darkest value of the picture.
function withoutPadding(values: Float64Array, raw: Float64Array, padding: number): Float64Array {
  let darkest = Infinity;
  values.forEach((value, i) => {
    if (raw[i] !== padding && value < darkest) darkest = value;
  });
  if (darkest === Infinity) return values;
  return values.map((value, i) => (raw[i] === padding ? darkest : value));
}

function unsigned(values: Float64Array, width: number, height: number, narrow: boolean): Pixels {
  const [low, high] = extremes(values);
  if (!Number.isFinite(low) || !Number.isFinite(high)) throw new ReadError("damaged");
  if (narrow && low >= 0 && high <= 255) {
    return { data: Uint8Array.from(values, rint), width, height };
  }
  const whole = values.every(Number.isInteger);
  if (whole && high - low <= 65535) {
    const shift = low >= 0 && high <= 65535 ? 0 : low;
    return { data: Uint16Array.from(values, (value) => value - shift), width, height };
  }
  const scale = 65535 / Math.max(high - low, 1e-12);
  return { data: Uint16Array.from(values, (value) => rint((value - low) * scale)), width, height };
}
