// One image in; findings, lungs, diagnosis, severity and hints out: cxrkit/inference/predictor.py.

import { type Grey, type Pixels, mirror, resizeLinear } from "./arrays";
import type { Description } from "./description";
import {
  type Mask,
  type Zones,
  calibrated,
  cleanMask,
  maskAt,
  poolZones,
  score,
  zonesOf,
} from "./geometry";
import type { Networks } from "./networks";
import { normalize, prepare, resize, toUint8 } from "./preprocessing";
import { type Hint, hints, qualityInput } from "./quality";

export interface Film {
  pixels: Pixels;
  view: string | null; // PA or AP where it is known
  hints: Hint[]; // of the reader
  spacing: [number, number] | null; // mm per pixel: row, column
}

export interface Attention {
  data: Float32Array; // (L, N, T, T)
  blocks: number;
  heads: number;
  tokens: number;
}

export interface Prediction {
  input: Grey; // as the networks see it, before normalisation
  findings: number[] | null;
  findingMaps: Float32Array[] | null; // each (h, w)
  grid: number; // h = w
  views: string[]; // of the diagnosis models that were used
  probs: number[];
  attention: Attention | null; // of the first of these models
  lungs: Mask; // (S, S)
  severityMap: Float32Array; // (H, W), before the lungs are known
  mapSize: number; // H = W
  zones: Zones; // at the size of the map
  array: number[]; // in the order of labels.zones
  score: number;
  hints: Hint[];
}

const VIEWS = ["PA", "AP"];

// The diagnosis models that serve a film, and what to warn of.
export function chooseViews(
  about: Description,
  wanted: string | null,
  stated: string | null,
): { views: string[]; hints: Hint[] } {
  const have = VIEWS.filter((name) => `diagnosis_${name.toLowerCase()}` in about.networks);
  const view = wanted ?? stated;
  const found: Hint[] = [];
  if (stated && !VIEWS.includes(stated)) {
    found.push({ key: "view_not_frontal", values: { view: stated } });
  }
  if (wanted && stated && wanted !== stated) {
    found.push({ key: "view_contradicts", values: { wanted, stated } });
  }
  if (view && have.includes(view)) return { views: [view], hints: found };
  const first = { view: have[0]! };
  if (view && VIEWS.includes(view)) {
    return { views: have, hints: [...found, { key: "view_no_model", values: { ...first, wanted: view } }] };
  }
  const key = have.length > 1 ? "view_unknown" : "view_one_model";
  return { views: have, hints: [...found, { key, values: first }] };
}

function mean(rows: Float32Array[]): number[] {
  return [...rows[0]!].map((_, i) => rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length);
}

export interface Lungs {
  mask: Mask;
  straight: Float32Array;
  mirrored: Float32Array; // flipped back
}

// Clean lung mask of a film, and the probabilities on it and on its mirror image.
export async function segment(pixels: Pixels, networks: Networks): Promise<Lungs> {
  const { about } = networks;
  const how = about.preprocessing.lungs;
  const grey = toUint8(pixels, how.stretch, about.preprocessing);
  const image = normalize(resize(grey, how.size), how.normalize, about.preprocessing);
  const both = new Float32Array(2 * image.length);
  both.set(image);
  both.set(mirror(image, how.size), image.length);
  const logits = (await networks.run("lungs", both)).logits!;
  const straight = logits.slice(0, image.length);
  const mirrored = mirror(logits.slice(image.length), how.size);
  const used = about.lungs.mirror
    ? straight.map((value, i) => (value + mirrored[i]!) / 2)
    : straight;
  const size = about.lungs.mask_size;
  const large = resizeLinear({ data: used, width: how.size, height: how.size }, size, size);
  const data = Uint8Array.from(large, (value) => (value > 0 ? 1 : 0));
  const sigmoid = (values: Float32Array) => values.map((value) => 1 / (1 + Math.exp(-value)));
  return {
    mask: cleanMask({ data, width: size, height: size }),
    straight: sigmoid(straight),
    mirrored: sigmoid(mirrored),
  };
}

// The six values and the score of a severity map inside the lungs, cut at the given lines.
export function grade(
  map: Float32Array,
  size: number,
  lungs: Mask,
  cuts: [number, number],
  about: Description,
): { zones: Zones; array: number[]; score: number } {
  const rules = about.severity;
  const zones = zonesOf(maskAt(lungs, size, size), rules, cuts);
  const array = calibrated(poolZones(map, zones, rules.zone_maximum), rules.calibration);
  return { zones, array, score: score(array, rules.severity_score) };
}

// Probabilities of the diagnoses of prepared images, (B, 3), the mean over the views' models.
export async function diagnose(
  batch: Float32Array,
  views: string[],
  networks: Networks,
): Promise<{ probs: Float32Array; attention: Float32Array | null }> {
  const found = [];
  for (const view of views) found.push(await networks.run(`diagnosis_${view.toLowerCase()}`, batch));
  const probs = Float32Array.from(mean(found.map((one) => one.probs!)));
  return { probs, attention: found[0]!.attention ?? null };
}

export async function predict(
  film: Film,
  wanted: string | null,
  networks: Networks,
): Promise<Prediction> {
  const { about } = networks;
  const rules = about.preprocessing;
  const input = prepare(film.pixels, rules.image, rules);
  const image = normalize(input, rules.image.normalize, rules);
  const chosen = chooseViews(about, wanted, film.view);
  const lungs = await segment(film.pixels, networks);
  const diagnosis = await diagnose(image, chosen.views, networks);
  const severityMap = (await networks.run("severity", image)).severity_map!;
  const faults = (await networks.run("quality", qualityInput(film.pixels, about))).probs!;
  const findings = networks.has("findings") ? await networks.run("findings", image) : null;

  const first = `diagnosis_${chosen.views[0]!.toLowerCase()}`;
  const shape = about.networks[first]!.outputs.attention;
  const probs = [...diagnosis.probs];
  const mapSize = Math.sqrt(severityMap.length);
  const graded = grade(severityMap, mapSize, lungs.mask, about.severity.cuts, about);
  const seen = hints(film.pixels, lungs.mask, faults, lungs.straight, lungs.mirrored, about);
  const maps = findings ? split(findings.maps!, findings.probs!.length) : null;
  return {
    input,
    findings: findings ? [...findings.probs!] : null,
    findingMaps: maps,
    grid: maps ? Math.sqrt(maps[0]!.length) : 0,
    views: chosen.views,
    probs,
    attention: attentionOf(diagnosis.attention, shape),
    lungs: lungs.mask,
    severityMap,
    mapSize,
    zones: graded.zones,
    array: graded.array,
    score: graded.score,
    hints: [...seen, ...contradiction(probs, graded.score, about), ...chosen.hints, ...film.hints],
  };
}

// A score that the diagnosis contradicts: severity was learnt from films of COVID-19, and by a
// choice from normal ones.
function contradiction(probs: number[], found: number, about: Description): Hint[] {
  const likeliest = about.labels.diagnoses[probs.indexOf(Math.max(...probs))]!;
  if (found <= about.severity.severe || likeliest === "covid19") return [];
  const key = about.severity.healthy === "zeros" ? "contradicts_normal" : "contradicts";
  return [{ key, values: { score: found.toFixed(1), diagnosis: likeliest } }];
}

function split(values: Float32Array, parts: number): Float32Array[] {
  const length = values.length / parts;
  return Array.from({ length: parts }, (_, i) => values.slice(i * length, (i + 1) * length));
}

function attentionOf(
  data: Float32Array | null,
  shape: number[] | undefined,
): Attention | null {
  if (!data || !shape) return null;
  const [blocks, heads, tokens] = shape as [number, number, number];
  return { data, blocks, heads, tokens };
}
