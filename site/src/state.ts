// What is shown, as far as a link can say it: the part of the address behind the #.

import { clamp } from "./arrays";
import type { SeverityRules } from "./description";
import { LANGUAGES } from "./strings";

export const PANELS = [
  "film",
  "findings",
  "lungs",
  "severity",
  "relevance",
  "occlusion",
  "attention",
] as const;
export type Panel = (typeof PANELS)[number];

export const ZOOMS = 4; // times, at most

export interface State {
  film: string; // id on the list, or "own"
  panel: Panel;
  threshold: number;
  opacity: number;
  cuts: [number, number];
  diagnosis: number; // place in labels.diagnoses
  finding: number;
  cell: number; // of the grid, for attention
  block: number;
  head: number; // from 1; 0 = the mean of all
  view: string; // "", PA or AP
  brightness: number;
  contrast: number;
  invert: boolean;
  zoom: number;
  truth: boolean;
  language: string;
  theme: string; // "", light or dark
  large: boolean;
}

export function defaults(film: string, rules: Pick<SeverityRules, "cuts" | "contour">): State {
  return {
    film,
    panel: "film",
    threshold: rules.contour, // where the map was found to show a lesion
    opacity: 0.6,
    cuts: [...rules.cuts],
    diagnosis: 2,
    finding: 2,
    cell: 27,
    block: 0,
    head: 0,
    view: "",
    brightness: 0.5,
    contrast: 0.5,
    invert: false,
    zoom: 1,
    truth: false,
    language: "en",
    theme: "",
    large: false,
  };
}

export function toFragment(state: State, base: State): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    const text = Array.isArray(value) ? value.map((one) => one.toFixed(3)).join(",") : `${value}`;
    const usual = base[name as keyof State];
    const before = Array.isArray(usual) ? usual.map((one) => one.toFixed(3)).join(",") : `${usual}`;
    if (text !== before || name === "film") found.set(name, text);
  }
  return found.toString();
}

function share(text: string | null, usual: number): number {
  const value = Number(text);
  return text !== null && text !== "" && Number.isFinite(value) ? clamp(value, 0, 1) : usual;
}

function whole(text: string | null, usual: number, most: number): number {
  const value = Number(text);
  return text !== null && Number.isInteger(value) ? clamp(value, 0, most) : usual;
}

// A link may have been written by anyone: whatever does not fit is left at its usual value.
export function fromFragment(text: string, base: State): State {
  const given = new URLSearchParams(text.replace(/^#/, ""));
  const panel = given.get("panel") as Panel;
  const cuts = (given.get("cuts") ?? "").split(",").map(Number);
  const sound = cuts.length === 2 && cuts.every((one) => one > 0 && one < 1) && cuts[0]! < cuts[1]!;
  const one = (name: string, names: string[], usual: string) =>
    names.includes(given.get(name) ?? "") ? given.get(name)! : usual;
  return {
    film: given.get("film") ?? base.film,
    panel: PANELS.includes(panel) ? panel : base.panel,
    threshold: share(given.get("threshold"), base.threshold),
    opacity: share(given.get("opacity"), base.opacity),
    cuts: sound ? (cuts as [number, number]) : [...base.cuts],
    diagnosis: whole(given.get("diagnosis"), base.diagnosis, 2),
    finding: whole(given.get("finding"), base.finding, 9),
    cell: whole(given.get("cell"), base.cell, 1023),
    block: whole(given.get("block"), base.block, 99),
    head: whole(given.get("head"), base.head, 99),
    view: one("view", ["PA", "AP"], base.view),
    brightness: share(given.get("brightness"), base.brightness),
    contrast: share(given.get("contrast"), base.contrast),
    invert: given.get("invert") === "true",
    zoom: Math.max(1, whole(given.get("zoom"), base.zoom, ZOOMS)),
    truth: given.get("truth") === "true",
    language: one("language", Object.keys(LANGUAGES), base.language),
    theme: one("theme", ["light", "dark"], base.theme),
    large: given.get("large") === "true",
  };
}
