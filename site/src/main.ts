// The page: one film, what the networks say of it, and the controls. Everything is drawn from
// `state`, the film and its prediction.

import { type Grey, type Pixels, toBytes } from "./arrays";
import * as assets from "./assets";
import { type Description, type Film as Entry, unsupported } from "./description";
import { el, fill } from "./dom";
import { GREEN, type Layer, SKY, type Scene, displayed, figureOf, involved, marksOf } from "./draw";
import { type Dab, type Edit, brushed, edited } from "./edits";
import { type Occlusion, occlusion } from "./explain";
import type { Mask } from "./geometry";
import { paint, svgOf } from "./marks";
import { Networks } from "./networks";
import { type Film, type Prediction, grade, predict } from "./predict";
import { toUint8 } from "./preprocessing";
import { Quiz } from "./quiz";
import { ReadError, readFilm } from "./readers";
import { PANELS, type Panel, type State, defaults, fromFragment, toFragment } from "./state";
import { LANGUAGES, type Language, say, setLanguage } from "./strings";
import { View } from "./view";

export interface Shown {
  name: string;
  entry: Entry | null; // what is known of a film of the list
  film: Film;
  display: Grey; // the film as it is shown, without edits
  original: Prediction | null; // without edits
  prediction: Prediction | null;
  edit: Edit | null;
  dabs: Dab[];
  occlusion: Occlusion | null;
  truth: { lungs: Mask; lesion: Mask } | null;
}

const LETTERS = 12; // px on the screen, the smallest on a film

// A film of the patient on show.
export interface Visit {
  entry: Entry;
  visit: number; // from 1
  film: Film | null; // null until it is predicted
  prediction: Prediction | null;
}

export class Room {
  state: State;
  readonly base: State;
  shown: Shown | null = null;
  networks: Networks | null = null;
  readonly view: View;
  readonly quiz: Quiz;
  private opened = 0; // of two films that are opened in quick succession the later one is shown
  private asked = 0; // a later question makes the answers to earlier ones worthless
  private busy = false;
  private pending = false;
  private readonly kept = new Map<string, { film: Film; prediction: Prediction }>(); // by entry

  constructor(
    readonly about: Description,
    readonly films: Entry[],
    root: HTMLElement,
  ) {
    this.base = defaults(films[0]?.id ?? "own", about.severity);
    const system = navigator.language.slice(0, 2);
    if (system in LANGUAGES) this.base.language = system;
    this.state = fromFragment(location.hash, this.base);
    setLanguage(this.state.language as Language);
    this.quiz = new Quiz(this);
    this.view = new View(this, root);
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) === toFragment(this.state, this.base)) return;
      const before = this.state.film;
      this.set(fromFragment(location.hash, this.base));
      if (this.state.film !== before) void this.openEntry(this.state.film);
    });
  }

  // Change what is shown; drawing is quick, so that it follows every movement of a slider.
  set(change: Partial<State>): void {
    const before = this.state;
    this.state = { ...before, ...change };
    if (this.state.language !== before.language) setLanguage(this.state.language as Language);
    history.replaceState(null, "", `#${toFragment(this.state, this.base)}`);
    if (this.state.cuts !== before.cuts) this.regrade();
    if (this.state.language !== before.language) this.view.rebuild();
    else this.view.update();
    if (this.state.view !== before.view) void this.predict();
  }

  async start(): Promise<void> {
    await assets.complete();
    const wasm = await assets.bytes("runtime.wasm");
    const models: Record<string, ArrayBuffer> = {};
    for (const [name, entry] of Object.entries(this.about.networks)) {
      models[name] = (await assets.bytes(entry.file)).buffer as ArrayBuffer;
    }
    const worker = await assets.words("worker.js");
    this.networks = await Networks.start(worker, wasm.buffer as ArrayBuffer, models, this.about);
    await this.predict();
    if (this.shown?.entry) void this.predictVisits(this.shown.entry);
  }

  // films

  async openEntry(id: string): Promise<void> {
    const entry = this.films.find((one) => one.id === id) ?? this.films[0];
    if (!entry) return;
    const turn = ++this.opened;
    const film = await readFilm(await assets.bytes(entry.image));
    film.view = entry.view;
    const truth = await truthOf(entry);
    if (turn === this.opened) await this.show(this.nameOf(entry), entry, film, truth);
    if (turn === this.opened) void this.predictVisits(entry);
  }

  // What a film is called on the list: patients with several films have letters.
  nameOf(entry: Entry): string {
    const count = (patient: string) => this.films.filter((one) => one.patient === patient).length;
    const followed = [...new Set(this.films.map((one) => one.patient))].filter((p) => count(p) > 1);
    const place = followed.indexOf(entry.patient);
    const { site, view } = entry;
    if (place < 0) return say("single", { site, view });
    const patient = String.fromCharCode(65 + place);
    return say("series", { patient, visit: entry.visit + 1, view });
  }

  async openFile(file: File): Promise<void> {
    const turn = ++this.opened;
    try {
      const film = await readFilm(new Uint8Array(await file.arrayBuffer()));
      if (turn === this.opened) await this.show(say("your_film"), null, film, null);
    } catch (error) {
      const known = error instanceof ReadError;
      const reason = known ? say(error.key, error.values) : say("damaged");
      this.view.message(say("unreadable", { file: file.name, reason }));
    }
  }

  private async show(
    name: string,
    entry: Entry | null,
    film: Film,
    truth: Shown["truth"],
  ): Promise<void> {
    const display = displayed(film.pixels, this.about);
    this.shown = { name, entry, film, display, truth, ...nothingYet() };
    this.view.message("");
    this.drawFilm();
    this.set({ film: entry?.id ?? "own" });
    await this.predict();
  }

  // Pixels with the edits of the film.
  private changed<T extends Pixels>(pixels: T): T {
    const { edit, dabs, original } = this.shown!;
    let found: Pixels = pixels;
    if (edit && original) found = edited(found, edit, original.lungs, this.about.severity);
    if (dabs.length) found = brushed(found, dabs);
    return found as T;
  }

  // The film with its edits, for the networks. As in the kernel-based room, edits begin with grey
  // of 8 bits.
  pixels(): Pixels {
    const { pixels } = this.shown!.film;
    if (!this.isEdited()) return pixels;
    return this.changed(toUint8(pixels, "robust", this.about.preprocessing));
  }

  private drawFilm(): void {
    this.view.filmChanged(this.changed(this.shown!.display));
  }

  // predictions

  // Predict for what is shown now. While one prediction runs, only the last question waits.
  async predict(): Promise<void> {
    if (!this.networks || !this.shown) return;
    this.asked++;
    if (this.busy) {
      this.pending = true;
      return;
    }
    this.busy = true;
    this.view.status(say("computing"));
    try {
      do {
        this.pending = false;
        await this.predictNow();
      } while (this.pending);
      this.view.status(say("ready"));
    } catch (error) {
      this.view.status("");
      this.view.message(say("failed_predict", { reason: String(error) }));
    } finally {
      this.busy = false;
    }
  }

  private async predictNow(): Promise<void> {
    const { shown } = this;
    if (!shown) return;
    const view = this.state.view || null;
    const changed = this.isEdited();
    const film = { ...shown.film, pixels: this.pixels() };
    // an edit may have come before the film without it was predicted
    const before = changed && !shown.original ? await predict(shown.film, view, this.networks!) : null;
    const found = await predict(film, view, this.networks!);
    if (this.shown !== shown) {
      this.pending = true;
      return;
    }
    shown.prediction = found;
    shown.occlusion = null;
    const original = changed ? before : found;
    if (original) {
      shown.original = original;
      if (shown.entry) this.kept.set(shown.entry.id, { film: shown.film, prediction: original });
    }
    this.regrade();
    this.view.update();
    this.view.root.dataset.predicted = `${this.asked}`;
  }

  // Zones and score for the present lines.
  private regrade(): void {
    const visits = this.visits().map((one) => one.prediction);
    for (const found of [this.shown?.prediction, this.shown?.original, ...visits]) {
      if (!found) continue;
      Object.assign(
        found,
        grade(found.severityMap, found.mapSize, found.lungs, this.state.cuts, this.about),
      );
    }
  }

  setEdit(edit: Edit | null): void {
    if (!this.shown?.original) return;
    this.shown.edit = edit;
    if (!edit) this.shown.dabs = [];
    this.afterEdit();
  }

  dab(dab: Dab): void {
    if (!this.shown) return;
    this.shown.dabs.push(dab);
    this.afterEdit();
  }

  private afterEdit(): void {
    this.drawFilm();
    this.view.update();
    void this.predict();
  }

  async occlude(): Promise<void> {
    const shown = this.shown;
    const found = shown?.prediction;
    if (!shown || !found || !this.networks) return;
    const tell = (share: number) => this.view.status(`${Math.round(100 * share)} %`);
    const result = await occlusion(found.input, found.views, found.probs, this.networks, tell);
    this.view.status(say("ready"));
    if (shown.prediction !== found) return;
    shown.occlusion = result;
    this.view.update();
  }

  // All films of the patient on show, in their order; one film where there are no others.
  visits(): Visit[] {
    const shown = this.shown?.entry;
    if (!shown) return [];
    return this.films
      .filter((one) => one.patient === shown.patient)
      .sort((a, b) => a.visit - b.visit)
      .map((entry, i) => {
        const kept = this.kept.get(entry.id);
        return { entry, visit: i + 1, film: kept?.film ?? null, prediction: kept?.prediction ?? null };
      });
  }

  // The other films of a patient, so that the follow-up is complete whichever was opened.
  private async predictVisits(entry: Entry): Promise<void> {
    for (const { entry: other, prediction } of this.visits()) {
      if (prediction || !this.networks || this.shown?.entry !== entry) continue;
      const film = await readFilm(await assets.bytes(other.image));
      film.view = other.view;
      const found = await predict(film, null, this.networks);
      this.kept.set(other.id, { film, prediction: found });
      if (this.shown?.entry !== entry) return;
      this.regrade();
      this.view.update();
    }
  }

  // The panels that the networks have something to show on.
  panels(): Panel[] {
    const { networks } = this.about;
    const attends = Object.values(networks).some((one) => "attention" in one.outputs);
    const explained = this.films.some((film) => Object.keys(film.relevance).length > 0);
    const missing = {
      findings: !("findings" in networks),
      attention: !attends,
      relevance: !explained,
    };
    return PANELS.filter((panel) => !missing[panel as keyof typeof missing]);
  }

  // drawing

  layer(): Layer | null {
    const found = this.shown?.prediction;
    if (!found) return null;
    const { panel, diagnosis, finding } = this.state;
    const cells = { smooth: true, signed: false, inside: null };
    if (panel === "findings" && found.findingMaps) {
      const values = found.findingMaps[finding]!;
      return { ...cells, values, width: found.grid, height: found.grid };
    }
    if (panel === "severity") {
      const [values, size] = [found.severityMap, found.mapSize];
      return { ...cells, values, width: size, height: size, inside: found.lungs };
    }
    if (panel === "relevance") {
      const name = this.about.labels.diagnoses[diagnosis]!;
      const rows = this.isEdited() ? undefined : this.shown!.entry?.relevance[name];
      return rows ? signedLayer(rows.flat(), rows[0]!.length, true) : null;
    }
    if (panel === "occlusion" && this.shown!.occlusion) {
      const { drops, side } = this.shown!.occlusion;
      return signedLayer(drops[diagnosis]!, side, false);
    }
    if (panel === "attention") return this.attentionLayer();
    return null;
  }

  private attentionLayer(): Layer | null {
    const attention = this.shown?.prediction?.attention;
    if (!attention) return null;
    const { data, heads, tokens, blocks } = attention;
    const grid = Math.round(Math.sqrt(tokens - 1));
    const block = Math.min(this.state.block, blocks - 1);
    const row = 1 + Math.min(this.state.cell, grid * grid - 1);
    const values = new Float32Array(grid * grid);
    const chosen = this.state.head; // 0 = the mean of all
    for (let head = 0; head < heads; head++) {
      if (chosen && head !== Math.min(chosen, heads) - 1) continue;
      const start = ((block * heads + head) * tokens + row) * tokens + 1;
      for (let i = 0; i < values.length; i++) values[i]! += data[start + i]!;
    }
    const most = Math.max(...values, 1e-12);
    const shown = values.map((value) => value / most);
    const cells = { width: grid, height: grid, inside: null };
    return { ...cells, values: shown, signed: false, smooth: false };
  }

  isEdited(): boolean {
    return !!this.shown && (this.shown.edit !== null || this.shown.dabs.length > 0);
  }

  private outlines(): Scene["outlines"] {
    const { state, shown } = this;
    const found = shown?.prediction;
    const outlines: Scene["outlines"] = [];
    if (found && ["lungs", "severity"].includes(state.panel)) {
      outlines.push({ mask: found.lungs, colour: SKY, dashed: false });
    }
    if (found && state.panel === "severity") {
      const mask = involved(found.severityMap, found.mapSize, found.lungs, state.threshold);
      outlines.push({ mask, colour: "#fff", dashed: false });
    }
    if (state.truth && shown?.truth) {
      outlines.push({ mask: shown.truth.lesion, colour: GREEN, dashed: false });
      outlines.push({ mask: shown.truth.lungs, colour: GREEN, dashed: true });
    }
    return outlines;
  }

  private scene(film: HTMLCanvasElement, letters: number): Scene {
    const { state, shown } = this;
    const hidden = this.quiz.hides();
    const found = shown?.prediction ?? null;
    const grid = found?.attention ? Math.round(Math.sqrt(found.attention.tokens - 1)) : 0;
    const width = shown ? widthOf(shown) : null;
    const origin = shown?.entry ? say("synthetic") : say("your_file");
    const cell = Math.min(state.cell, grid * grid - 1);
    return {
      film,
      layer: hidden ? null : this.layer(),
      opacity: state.opacity,
      outlines: hidden ? [] : this.outlines(),
      cell: state.panel === "attention" && grid && !hidden ? { grid, index: cell } : null,
      zones: state.panel === "severity" && !hidden ? (found?.zones ?? null) : null,
      cuts: state.cuts,
      letters,
      spacing: width === null ? null : width / film.width,
      length: (length) => say("mm", { length }),
      origin: this.isEdited() ? `${origin}, ${say("edited")}` : origin,
    };
  }

  // Letters are as large on a small screen as on a large one.
  draw(canvas: HTMLCanvasElement, film: HTMLCanvasElement): void {
    const scale = film.width / (canvas.clientWidth || film.width);
    const letters = Math.max(lettersOf(film), Math.round(LETTERS * scale));
    paint(canvas, marksOf(this.scene(film, letters)), film.width, film.height);
  }

  // What stands below a figure that is saved; the first line is its title.
  caption(): string[] {
    const { state, about, shown } = this;
    if (!shown) return [];
    const parts = [shown.name, say(`panel_${state.panel}`)];
    if (this.quiz.hides()) return [parts[0]!, say("notice")];
    if (state.panel === "findings") parts.push(say(`findings_${about.labels.findings[state.finding]}`));
    if (["relevance", "occlusion"].includes(state.panel)) {
      parts.push(say(about.labels.diagnoses[state.diagnosis]!));
    }
    if (this.isEdited()) parts.push(say("edited"));
    const found = shown.prediction;
    const lines = [parts.join(" \u00b7 ")];
    if (found) {
      const values = found.probs.map((p, i) => `${say(about.labels.diagnoses[i]!)} ${p.toFixed(2)}`);
      lines.push(`${say("of_views", { views: found.views.join(", ") })}. ${values.join(", ")}`);
    }
    if (found && state.panel === "severity") {
      const values = { score: found.score.toFixed(1), threshold: state.threshold.toFixed(2) };
      lines.push(say("severity_legend", values));
    }
    const help = { relevance: "relevance_help", occlusion: "occlusion_help" }[state.panel as string];
    if (help) lines.push(say(help));
    if (state.truth && shown.truth) lines.push(say("truth_outline"));
    lines.push(`${shown.entry ? say("synthetic") : say("your_file")}. ${about.made.by}, ` +
      `${about.made.profile}, ${about.made.models}. ${say("notice")}`);
    return lines;
  }

  async figure(film: HTMLCanvasElement, kind: "png" | "svg"): Promise<Blob> {
    const lines = this.caption();
    const { marks, width, height } = figureOf(this.scene(film, lettersOf(film)), lines);
    if (kind === "svg") {
      const text = svgOf(marks, width, height, lines[0] ?? "");
      return new Blob([text], { type: "image/svg+xml" });
    }
    const canvas = document.createElement("canvas");
    paint(canvas, marks, width, height);
    return new Promise((give, refuse) =>
      canvas.toBlob((blob) => (blob ? give(blob) : refuse(new Error("no PNG"))), "image/png"),
    );
  }
}

// Width of a film at the detector, mm, where it is known.
function widthOf({ entry, film }: Shown): number | null {
  if (entry) return entry.width_mm;
  return film.spacing ? film.spacing[1] * film.pixels.width : null;
}

function lettersOf(film: HTMLCanvasElement): number {
  return Math.round(film.width / 46);
}

function nothingYet() {
  return { original: null, prediction: null, edit: null, dabs: [], occlusion: null };
}

// Values around 0, scaled to -1 to 1.
function signedLayer(values: number[], side: number, smooth: boolean): Layer {
  const most = Math.max(...values.map(Math.abs), 1e-9);
  const scaled = values.map((value) => value / most);
  return { values: scaled, width: side, height: side, signed: true, smooth, inside: null };
}

async function truthOf(entry: Entry): Promise<Shown["truth"]> {
  const [lungs, lesion] = await Promise.all([maskOf(entry.lungs), maskOf(entry.lesion)]);
  return lungs && lesion ? { lungs, lesion } : null;
}

async function maskOf(name: string): Promise<Mask | null> {
  if (!assets.has(name)) return null;
  const { readPng } = await import("./readers/rasters");
  const { pixels } = readPng(await assets.bytes(name));
  const data = toBytes(Float32Array.from(pixels.data, (value) => (value > 0 ? 1 : 0)));
  return { data, width: pixels.width, height: pixels.height };
}

async function open(): Promise<void> {
  const root = document.getElementById("room")!;
  const about = await assets.json<Description>("models.json");
  const problem = unsupported(about);
  if (problem) {
    fill(root, el("p", { class: "notice", role: "alert" }, say("unsupported", { setting: problem })));
    return;
  }
  const { films, models } = await assets.json<{ films: Entry[]; models: string }>("films.json");
  // maps explain the networks that they were computed with, and no others
  if (models !== about.made.models) for (const film of films) film.relevance = {};
  const room = new Room(about, films, root);
  await room.openEntry(room.state.film);
  root.dataset.film = "drawn";
  try {
    await room.start();
    root.dataset.ready = "yes";
  } catch (error) {
    room.view.message(say("failed_start", { reason: String(error) }));
  }
  (window as any).room = room; // for the tests, and for the curious
}

void open();
