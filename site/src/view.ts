// The elements of the page, and what they say. No number is computed here.

import { type Grey, clamp } from "./arrays";
import * as assets from "./assets";
import type { Bin } from "./description";
import { download, el, fill } from "./dom";
import { displayed, enlarged, filmPicture, layerPicture, lineHeight, outline } from "./draw";
import { EDITS } from "./edits";
import type { Room, Visit } from "./main";
import { paint } from "./marks";
import { ZOOMS } from "./state";
import { LANGUAGES, say } from "./strings";

const STEP = 0.01; // of a zone line, for an arrow key
const THUMB = 132; // px of a film of the follow-up

export class View {
  private grey: Grey | null = null; // of the film, with its edits
  private film: HTMLCanvasElement | null = null;
  private readonly canvas = el("canvas", { id: "film", tabindex: "0", role: "img" });
  private readonly lines = [0, 1].map((i) => this.zoneLine(i as 0 | 1));
  private readonly frame = el("div", { class: "frame" }, this.canvas, ...this.lines);
  private parts: Record<string, HTMLElement> = {};
  private brush = false;
  private calibrationOpen = false;
  private tonesOpen = false;
  private readonly thumbs = new Map<string, HTMLElement>(); // of the follow-up, by film
  private readonly drawnFor = new Map<string, unknown[]>();

  constructor(
    private readonly room: Room,
    readonly root: HTMLElement,
  ) {
    this.listen();
    this.rebuild();
  }

  // Whether anything that a part of the page depends on has changed since it was built.
  private changed(part: string, ...now: unknown[]): boolean {
    const before = this.drawnFor.get(part);
    this.drawnFor.set(part, now);
    return before?.length !== now.length || now.some((value, i) => value !== before[i]);
  }

  // Build all elements anew, as after another language was chosen.
  rebuild(): void {
    this.drawnFor.clear();
    document.documentElement.lang = this.room.state.language;
    document.title = say("title");
    const part = (name: string, tag: "div" | "section" = "div") =>
      (this.parts[name] = el(tag, { class: name }));
    const scroll = el("div", { class: "scroll" }, this.frame);
    fill(
      this.root,
      this.header(),
      el("p", { class: "notice", role: "note" }, `${say("notice")} ${this.origin()}`),
      (this.parts.message = el("p", { class: "message", role: "alert", hidden: true })),
      el(
        "main",
        {},
        el("nav", { class: "list", "aria-label": say("films") }, this.opener(), part("films")),
        el("section", { class: "stage", "aria-label": say("panel") }, this.panels(), scroll, part("controls")),
        el("section", { class: "results", "aria-label": say("answers") }, part("answers")),
      ),
      // for screen readers: one sentence after each prediction, not all that stands on the page
      (this.parts.spoken = el("p", { class: "hidden", role: "status" })),
      this.about(),
    );
    this.update();
  }

  private origin(): string {
    return say(this.room.about.virtual_only ? "virtual_notice" : "real_notice");
  }

  filmChanged(grey: Grey): void {
    this.grey = grey;
  }

  message(text: string): void {
    const box = this.parts.message!;
    box.hidden = !text;
    box.textContent = text;
  }

  status(text: string): void {
    const box = document.getElementById("status");
    if (box) box.textContent = text;
  }

  update(): void {
    const { state } = this.room;
    const html = document.documentElement;
    html.dataset.theme = state.theme;
    html.dataset.large = state.large ? "yes" : "";
    this.updateFilms();
    this.updatePanels();
    this.updateControls();
    this.updateAnswers();
    this.draw();
  }

  private draw(): void {
    const { shown, state, quiz } = this.room;
    if (!this.grey) return;
    const { brightness, contrast, invert } = state;
    if (this.changed("film", this.grey, brightness, contrast, invert) || !this.film) {
      this.film = enlarged(filmPicture(this.grey, state));
    }
    this.room.draw(this.canvas, this.film);
    this.frame.style.width = state.zoom > 1 ? `${100 * state.zoom}%` : "";
    this.frame.classList.toggle("zoomed", state.zoom > 1);
    const panel = say(`panel_${state.panel}`);
    this.canvas.setAttribute("aria-label", say("film_alt", { name: shown?.name ?? "", panel }));
    const zones = shown?.prediction?.zones;
    this.lines.forEach((line, i) => {
      const cut = state.cuts[i]!;
      const height = zones ? lineHeight(zones, cut) : null;
      line.hidden = state.panel !== "severity" || height === null || quiz.hides();
      line.setAttribute("aria-label", say(i ? "cut_lower" : "cut_upper"));
      line.setAttribute("aria-valuenow", `${Math.round(100 * cut)}`);
      if (height !== null) line.style.top = `${100 * height}%`;
    });
  }

  // the head

  private header(): HTMLElement {
    const { state } = this.room;
    const language = this.select(
      "language",
      Object.entries(LANGUAGES),
      state.language,
      (value) => this.room.set({ language: value }),
    );
    const themes: [string, string][] = [
      ["", say("theme_auto")],
      ["light", say("theme_light")],
      ["dark", say("theme_dark")],
    ];
    const theme = this.select("theme", themes, state.theme, (value) =>
      this.room.set({ theme: value }),
    );
    const large = this.toggle("large", state.large, (on) => this.room.set({ large: on }));
    const about = el(
      "button",
      { type: "button", onclick: () => void this.openAbout() },
      say("about"),
    );
    return el(
      "header",
      {},
      el("h1", {}, say("title")),
      el("span", { id: "status", role: "status" }, this.room.networks ? say("ready") : say("loading")),
      el("div", { class: "tools" }, language, theme, large, about),
    );
  }

  private select(
    key: string,
    options: [string, string][],
    chosen: string,
    change: (value: string) => void,
  ): HTMLElement {
    const select = el(
      "select",
      { onchange: () => change(select.value) },
      ...options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)),
    );
    return el("label", { class: "field" }, el("span", {}, say(key)), select);
  }

  private toggle(key: string, on: boolean, change: (on: boolean) => void): HTMLElement {
    const box = el("input", { type: "checkbox", checked: on, onchange: () => change(box.checked) });
    return el("label", { class: "check" }, box, say(key));
  }

  private button(key: string, press: () => void, options = {}): HTMLButtonElement {
    return el("button", { type: "button", onclick: press, ...options }, say(key));
  }

  private about(): HTMLElement {
    const body = (this.parts.licences = el("div", {}));
    const dialog = el(
      "dialog",
      { id: "about", "aria-label": say("about") },
      body,
      this.button("close", () => dialog.close()),
    );
    return dialog;
  }

  private async openAbout(): Promise<void> {
    const { about } = this.room;
    const used = await assets.json<{ name: string; version: string; licence: string; text: string }[]>(
      "licences.json",
    );
    fill(
      this.parts.licences!,
      el("h2", {}, say("about")),
      el("p", {}, about.about),
      el("p", {}, `${about.made.by}, ${about.made.profile}, ${about.made.models}`),
      ...used.map((one) =>
        el(
          "details",
          {},
          el("summary", {}, `${one.name} ${one.version}: ${one.licence}`),
          el("pre", { tabindex: "0" }, one.text),
        ),
      ),
    );
    (document.getElementById("about") as HTMLDialogElement).showModal();
  }

  // the list

  private opener(): HTMLElement {
    const input = el("input", {
      type: "file",
      id: "file",
      class: "hidden",
      accept: ".png,.jpg,.jpeg,.dcm,.dicom,image/png,image/jpeg,application/dicom",
      onchange: () => {
        const [file] = input.files ?? [];
        input.value = "";
        if (file) void this.room.openFile(file);
      },
    });
    return el(
      "div",
      { class: "opener" },
      el("label", { for: "file", class: "button" }, say("open")),
      input,
      el("p", { class: "small" }, say("open_help")),
      el("p", { class: "small private" }, say("private")),
    );
  }

  private updateFilms(): void {
    const { films, state, quiz } = this.room;
    if (!this.changed("films", state.film, quiz.replies.length, quiz.running)) return;
    const rows = films.map((film, i) => {
      const text = this.room.nameOf(film);
      const answer = quiz.replies.find((one) => one.film === film.id);
      const mark = answer ? (answer.yours === answer.truth ? " ✓" : " ✗") : "";
      const choose = () => void this.room.openEntry(film.id);
      return el(
        "li",
        {},
        el(
          "button",
          { type: "button", "aria-current": state.film === film.id ? "true" : "false", onclick: choose },
          `${i + 1}  ${text}${mark}`,
        ),
      );
    });
    this.keepFocus(this.parts.films!, () =>
      fill(this.parts.films!, el("h2", {}, say("films")), el("ol", {}, ...rows)),
    );
  }

  // After elements were replaced, the one in the place of the focused one gets the focus.
  private keepFocus(box: HTMLElement, replace: () => void): void {
    const names = "button, input, select, summary";
    const place = [...box.querySelectorAll(names)].indexOf(document.activeElement as Element);
    replace();
    if (place >= 0) (box.querySelectorAll(names)[place] as HTMLElement | undefined)?.focus();
  }

  // the film

  private panels(): HTMLElement {
    const box = el("fieldset", { class: "panels" }, el("legend", {}, say("panel")));
    for (const panel of this.room.panels()) {
      const input = el("input", {
        type: "radio",
        name: "panel",
        value: panel,
        onchange: () => this.room.set({ panel }),
      });
      box.append(el("label", {}, input, el("span", {}, say(`panel_${panel}`))));
    }
    return (this.parts.panels = box);
  }

  private updatePanels(): void {
    for (const input of this.parts.panels!.querySelectorAll("input")) {
      input.checked = input.value === this.room.state.panel;
      input.disabled = this.room.quiz.hides() && input.value !== "film";
    }
  }

  private slider(
    key: string,
    value: number,
    change: (value: number) => void,
  ): HTMLElement {
    const shown = el("output", {}, value.toFixed(2));
    const input = el("input", {
      type: "range",
      min: "0",
      max: "1",
      step: "0.01",
      value: `${value}`,
      oninput: () => {
        shown.textContent = Number(input.value).toFixed(2);
        change(Number(input.value));
      },
    });
    return el("label", { class: "slider" }, el("span", {}, say(key)), input, shown);
  }

  // Sliders keep their element while they are dragged: only another panel builds them anew.
  private updateControls(): void {
    const { state, quiz, shown } = this.room;
    const ready = !!shown?.prediction;
    const kind = [state.panel, state.language, ready, quiz.hides(), this.brush, !!shown?.entry].join();
    const extra = [state.diagnosis, state.finding, state.view, state.truth, state.block, state.head].join();
    const found = `${kind},${extra},${!!shown?.occlusion},${shown?.edit},${this.room.isEdited()}`;
    if (this.parts.controls!.dataset.kind === found) return;
    this.keepFocus(this.parts.controls!, () => {
      fill(this.parts.controls!, ...(ready && !quiz.hides() ? this.controls() : []));
    });
    this.parts.controls!.dataset.kind = found;
  }

  private controls(): HTMLElement[] {
    const { state, about } = this.room;
    const set = this.room.set.bind(this.room);
    const found: HTMLElement[] = [];
    const signed = state.panel === "relevance" || state.panel === "occlusion";
    if (state.panel === "findings") {
      const names = about.labels.findings.map((name, i): [string, string] => [
        `${i}`,
        say(`findings_${name}`),
      ]);
      found.push(
        this.select("for_finding", names, `${state.finding}`, (value) =>
          set({ finding: Number(value) }),
        ),
      );
    }
    if (signed) {
      const names = about.labels.diagnoses.map((name, i): [string, string] => [`${i}`, say(name)]);
      found.push(
        this.select("for_diagnosis", names, `${state.diagnosis}`, (value) =>
          set({ diagnosis: Number(value) }),
        ),
      );
    }
    if (state.panel === "severity") {
      found.push(
        this.slider("threshold", state.threshold, (threshold) => set({ threshold })),
        el("p", { class: "small" }, say("cuts")),
        this.button("cut_reset", () => set({ cuts: [...this.room.base.cuts] })),
      );
    }
    if (state.panel === "occlusion") {
      found.push(this.button("occlusion_run", () => void this.room.occlude(), { id: "occlude" }));
    }
    if (state.panel === "attention") found.push(...this.attentionControls());
    if (!["film", "lungs"].includes(state.panel)) {
      found.push(this.slider("opacity", state.opacity, (opacity) => set({ opacity })));
    }
    const help = this.help();
    if (help) found.push(el("p", { class: "small help" }, say(help)));
    return [
      el("div", { class: "row" }, ...found),
      el("div", { class: "row" }, ...this.commonControls()),
      this.tones(),
      this.edits(),
    ];
  }

  private attentionControls(): HTMLElement[] {
    const attention = this.room.shown?.prediction?.attention;
    if (!attention) return [];
    const blocks = Array.from({ length: attention.blocks }, (_, i): [string, string] => [
      `${i}`,
      `${i + 1}`,
    ]);
    const heads: [string, string][] = [["0", say("mean_heads", { heads: attention.heads })]];
    for (let head = 1; head <= attention.heads; head++) heads.push([`${head}`, `${head}`]);
    const { state } = this.room;
    return [
      this.select("block", blocks, `${Math.min(state.block, attention.blocks - 1)}`, (value) =>
        this.room.set({ block: Number(value) }),
      ),
      this.select("head", heads, `${Math.min(state.head, attention.heads)}`, (value) =>
        this.room.set({ head: Number(value) }),
      ),
    ];
  }

  private help(): string {
    const { state, shown } = this.room;
    if (state.panel === "relevance") {
      if (!shown?.entry) return "relevance_none";
      return this.room.isEdited() ? "relevance_edited" : "relevance_help";
    }
    if (state.panel === "attention") {
      return shown?.prediction?.attention ? "attention_help" : "attention_none";
    }
    return state.panel === "occlusion" ? "occlusion_help" : "";
  }

  private commonControls(): HTMLElement[] {
    const { state, shown } = this.room;
    const views: [string, string][] = [
      ["", say("view_auto")],
      ["PA", "PA"],
      ["AP", "AP"],
    ];
    const found = [
      this.select("view", views, state.view, (view) => this.room.set({ view })),
      this.button("save_png", () => void this.save("png")),
      this.button("save_svg", () => void this.save("svg")),
      this.button("link", () => void this.copyLink()),
    ];
    if (shown?.entry) {
      found.unshift(this.toggle("show_truth", state.truth, (truth) => this.room.set({ truth })));
    }
    return found;
  }

  // How the film is shown; the networks see it as it is.
  private tones(): HTMLElement {
    const { state } = this.room;
    const set = this.room.set.bind(this.room);
    const zooms = Array.from({ length: ZOOMS }, (_, i): [string, string] => [`${i + 1}`, `${i + 1} ×`]);
    const box = el("details", { class: "edits" }, el("summary", {}, say("tones")));
    box.open = this.tonesOpen;
    box.addEventListener("toggle", () => (this.tonesOpen = box.open));
    box.append(
      el(
        "div",
        { class: "row" },
        this.slider("brightness", state.brightness, (brightness) => set({ brightness })),
        this.slider("contrast", state.contrast, (contrast) => set({ contrast })),
        this.toggle("invert", state.invert, (invert) => set({ invert })),
        this.select("zoom", zooms, `${state.zoom}`, (zoom) => set({ zoom: Number(zoom) })),
        this.button("tones_reset", () => {
          const { brightness, contrast, invert, zoom } = this.room.base;
          delete this.parts.controls!.dataset.kind; // the sliders begin anew
          set({ brightness, contrast, invert, zoom });
        }),
        el("p", { class: "small help" }, say("tones_help")),
      ),
    );
    return box;
  }

  private edits(): HTMLElement {
    const buttons = EDITS.map((edit) => {
      const pressed = this.room.shown?.edit === edit ? "true" : "false";
      return this.button(`edit_${edit}`, () => this.room.setEdit(edit), { "aria-pressed": pressed });
    });
    const brush = this.button(
      "edit_brush",
      () => {
        this.brush = !this.brush;
        this.canvas.classList.toggle("brush", this.brush);
        this.updateControls();
      },
      { "aria-pressed": this.brush ? "true" : "false" },
    );
    const undo = this.button("edit_none", () => this.room.setEdit(null), {
      disabled: !this.room.isEdited(),
    });
    const box = el("details", { class: "edits" }, el("summary", {}, say("edits")));
    box.open = this.room.isEdited() || this.brush;
    box.append(el("div", { class: "row" }, ...buttons, brush, undo));
    return box;
  }

  private async save(kind: "png" | "svg"): Promise<void> {
    if (!this.film) return;
    const { film, panel } = this.room.state;
    download(`${film}_${panel}.${kind}`, await this.room.figure(this.film, kind));
  }

  private async copyLink(): Promise<void> {
    await navigator.clipboard?.writeText(location.href).catch(() => {});
    this.status(say("link_done"));
  }

  // A handle on a zone line: a slider for the keyboard and for screen readers.
  private zoneLine(i: 0 | 1): HTMLElement {
    const move = (cut: number) => {
      const [upper, lower] = this.room.state.cuts;
      const cuts: [number, number] =
        i === 0 ? [clamp(cut, 0.05, lower - 0.05), lower] : [upper, clamp(cut, upper + 0.05, 0.95)];
      this.room.set({ cuts });
    };
    const handle = el("div", {
      class: "zone-line",
      role: "slider",
      tabindex: "0",
      hidden: true,
      "aria-orientation": "vertical",
      "aria-valuemin": "5",
      "aria-valuemax": "95",
      onkeydown: (event: KeyboardEvent) => {
        const step = { ArrowUp: -STEP, ArrowDown: STEP, PageUp: -5 * STEP, PageDown: 5 * STEP }[
          event.key
        ];
        if (step === undefined) return;
        event.preventDefault();
        move(this.room.state.cuts[i] + step);
      },
      onpointerdown: (event: PointerEvent) => handle.setPointerCapture(event.pointerId),
      onpointermove: (event: PointerEvent) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const zones = this.room.shown?.prediction?.zones;
        const extent = zones?.extents[0] ?? zones?.extents[1];
        if (!zones || !extent) return;
        const box = this.canvas.getBoundingClientRect();
        const row = ((event.clientY - box.top) / box.height) * zones.height;
        move((row - extent[0]) / (extent[1] - extent[0] + 1));
      },
    });
    return handle;
  }

  private listen(): void {
    const place = (event: PointerEvent) => {
      const box = this.canvas.getBoundingClientRect();
      const x = clamp((event.clientX - box.left) / box.width, 0, 0.9999);
      const y = clamp((event.clientY - box.top) / box.height, 0, 0.9999);
      return { x, y };
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (this.brush) {
        this.canvas.setPointerCapture(event.pointerId);
        this.room.dab(place(event));
      } else if (this.grid()) {
        const { x, y } = place(event);
        this.room.set({ cell: Math.floor(y * this.grid()) * this.grid() + Math.floor(x * this.grid()) });
      }
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.brush && this.canvas.hasPointerCapture(event.pointerId)) this.room.dab(place(event));
    });
    this.canvas.addEventListener("keydown", (event) => this.moveCell(event));
    addEventListener("resize", () => this.draw());
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer?.files ?? [];
      if (file) void this.room.openFile(file);
    });
  }

  // Side of the grid of cells, where the panel has one.
  private grid(): number {
    const attention = this.room.shown?.prediction?.attention;
    if (this.room.state.panel !== "attention" || !attention) return 0;
    return Math.round(Math.sqrt(attention.tokens - 1));
  }

  private moveCell(event: KeyboardEvent): void {
    const grid = this.grid();
    if (!grid) return;
    const steps: Record<string, [number, number]> = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const { cell } = this.room.state;
    const row = clamp(Math.floor(cell / grid) + step[0], 0, grid - 1);
    const column = clamp((cell % grid) + step[1], 0, grid - 1);
    this.room.set({ cell: row * grid + column });
  }

  // the answers

  private updateAnswers(): void {
    const { quiz, shown, state } = this.room;
    const known = [shown?.prediction, this.room.isEdited(), state.truth, state.cuts, shown?.entry];
    const asked = [quiz.running, quiz.replies.length, quiz.hides()];
    const visits = this.room.visits().filter((one) => one.prediction).length;
    if (!this.changed("answers", ...known, ...asked, visits)) return;
    const parts: HTMLElement[] = [this.quizBox()];
    this.parts.spoken!.textContent = this.spoken();
    if (shown?.prediction && !quiz.hides()) {
      parts.push(this.diagnoses(), this.severity());
      if (this.room.visits().length > 1 && !this.room.isEdited()) parts.push(this.followUp());
      if (shown.prediction.findings) parts.push(this.findings());
      parts.push(this.hints());
      if (this.room.state.truth && shown.entry) parts.push(this.truth());
    }
    if (!shown?.prediction) parts.push(el("section", {}, el("p", { class: "small" }, this.waiting())));
    this.keepFocus(this.parts.answers!, () => fill(this.parts.answers!, ...parts));
  }

  private waiting(): string {
    return say(this.room.networks ? "computing" : "loading");
  }

  // The answers in one sentence.
  private spoken(): string {
    const { quiz, shown, about } = this.room;
    const found = shown?.prediction;
    if (!found || quiz.hides()) return "";
    const likeliest = found.probs.indexOf(Math.max(...found.probs));
    return say("spoken", {
      film: shown.name,
      diagnosis: say(about.labels.diagnoses[likeliest]!),
      value: found.probs[likeliest]!.toFixed(2),
      score: found.score.toFixed(1),
      hints: found.hints.length,
    });
  }

  private bar(
    label: HTMLElement | string,
    value: number,
    before: number | null,
    tick: number | null,
  ): HTMLElement {
    const track = el("span", { class: "track", "aria-hidden": "true" });
    const inner = el("span", { class: "bar" });
    inner.style.width = `${100 * clamp(value, 0, 1)}%`;
    track.append(inner);
    if (tick !== null) {
      const mark = el("span", { class: "tick" });
      mark.style.left = `${100 * tick}%`;
      track.append(mark);
    }
    const change = before === null ? "" : ` (${signed(value - before)})`;
    return el(
      "li",
      {},
      el("span", { class: "name" }, label),
      track,
      el("span", { class: "value" }, `${value.toFixed(2)}${change}`),
    );
  }

  private diagnoses(): HTMLElement {
    const { about } = this.room;
    const found = this.room.shown!.prediction!;
    const original = this.room.isEdited() ? this.room.shown!.original : null;
    const tables = found.views.length === 1 ? about.diagnosis[found.views[0]!] : undefined;
    const rows = about.labels.diagnoses.map((name, i) =>
      this.bar(
        say(name),
        found.probs[i]!,
        original?.probs[i] ?? null,
        tables?.thresholds[name] ?? null,
      ),
    );
    const notes = [el("p", { class: "small" }, say("of_views", { views: found.views.join(", ") }))];
    if (tables) notes.push(el("p", { class: "small" }, say("operating")));
    const likeliest = found.probs.indexOf(Math.max(...found.probs));
    const name = about.labels.diagnoses[likeliest]!;
    const bins = tables?.calibration[name];
    const bin = bins?.[Math.min(Math.floor(found.probs[likeliest]! * bins.length), bins.length - 1)];
    if (bin?.observed != null) {
      const observed = `${Math.round(100 * bin.observed)} %`;
      const values = { n: bin.n, observed, diagnosis: say(name) };
      notes.push(el("p", { class: "small" }, say("calibration", values)));
    }
    const bars = el("ul", { class: "bars" }, ...rows);
    const table = tables ? this.calibration(tables.calibration) : null;
    return el("section", {}, el("h2", {}, say("diagnoses")), bars, ...notes, table);
  }

  // How often films had a diagnosis where the model gave it some probability.
  private calibration(tables: Record<string, Bin[]>): HTMLElement {
    const names = Object.keys(tables);
    const count = tables[names[0]!]!.length;
    const rows = Array.from({ length: count }, (_, i) => {
      const cells = names.map((name) => {
        const { n, observed } = tables[name]![i]!;
        const share = observed === null ? "\u2013" : `${Math.round(100 * observed)} %`;
        return el("td", {}, n ? `${share} (${n})` : share);
      });
      const range = `${Math.round((100 * i) / count)}\u2013${Math.round((100 * (i + 1)) / count)} %`;
      return el("tr", {}, el("th", { scope: "row" }, range), ...cells);
    });
    const heads = names.map((name) => el("th", { scope: "col" }, say(name)));
    const box = el("details", {}, el("summary", {}, say("calibration_title")));
    box.open = this.calibrationOpen;
    box.addEventListener("toggle", () => (this.calibrationOpen = box.open));
    const caption = el("caption", {}, say("calibration_help"));
    const head = el("tr", {}, el("td", {}, say("predicted")), ...heads);
    box.append(el("table", {}, caption, head, ...rows));
    return box;
  }

  private severity(): HTMLElement {
    const shown = this.room.shown!;
    const found = shown.prediction!;
    const original = this.room.isEdited() ? shown.original : null;
    const notes: HTMLElement[] = [];
    if (original) {
      const change = signed(found.score - original.score);
      notes.push(el("p", { class: "small" }, say("change", { change })));
    }
    const heads = ["", say("right_lung"), say("left_lung")].map((text) =>
      text ? el("th", { scope: "col" }, text) : el("td", {}),
    );
    const rows = ["upper", "middle", "lower"].map((name, i) => {
      const cells = [i, 3 + i].map((zone) => {
        const value = found.array[zone]!;
        const cell = el("td", { class: value >= 0.5 ? "involved" : "" }, value.toFixed(2));
        return cell;
      });
      return el("tr", {}, el("th", { scope: "row" }, say(name)), ...cells);
    });
    return el(
      "section",
      {},
      el("h2", {}, say("severity")),
      el("p", { class: "score" }, say("score", { score: found.score.toFixed(1) })),
      ...notes,
      el("table", {}, el("caption", {}, say("zones")), el("tr", {}, ...heads), ...rows),
    );
  }

  // The films of a patient in their order, each with its map and score.
  private followUp(): HTMLElement {
    const visits = this.room.visits();
    const rows = visits.map((one, i) => {
      const earlier = visits.slice(0, i).reverse().find((other) => other.prediction);
      return el("li", {}, this.visit(one, earlier?.prediction?.score));
    });
    const { limit } = this.room.about.follow_up;
    const noise = limit === undefined ? null : say("score_noise", { limit: limit.toFixed(1) });
    return el(
      "section",
      { class: "follow" },
      el("h2", {}, say("follow_up")),
      el("ol", {}, ...rows),
      noise && el("p", { class: "small" }, noise),
    );
  }

  private visit(one: Visit, before: number | undefined): HTMLElement {
    const score = one.prediction?.score;
    const change = score !== undefined && before !== undefined ? signed(score - before) : "";
    return el(
      "button",
      {
        type: "button",
        "aria-current": one.entry === this.room.shown?.entry ? "true" : "false",
        onclick: () => void this.room.openEntry(one.entry.id),
      },
      this.thumb(one),
      el("span", {}, say("visit", { visit: one.visit })),
      el("strong", {}, score === undefined ? "\u2026" : score.toFixed(1)),
      el("span", { class: "value" }, change),
    );
  }

  private thumb({ entry, film, prediction }: Visit): HTMLElement {
    const known = this.thumbs.get(entry.id);
    if (known) return known;
    const canvas = el("canvas", { width: THUMB, height: THUMB, "aria-hidden": "true" });
    if (!film || !prediction) return canvas;
    this.thumbs.set(entry.id, canvas);
    const whole = { x: 0, y: 0, width: THUMB, height: THUMB, smooth: true };
    const { severityMap: values, mapSize: size, lungs } = prediction;
    const layer = { values, width: size, height: size, signed: false, smooth: true, inside: lungs };
    const source = filmPicture(displayed(film.pixels, this.room.about), this.room.base);
    const marks = [
      { kind: "image" as const, source, ...whole, opacity: 1, clip: null },
      {
        kind: "image" as const,
        source: layerPicture(layer),
        ...whole,
        opacity: this.room.base.opacity,
        clip: outline(lungs, THUMB, THUMB),
      },
    ];
    paint(canvas, marks, THUMB, THUMB);
    return canvas;
  }

  private findings(): HTMLElement {
    const found = this.room.shown!.prediction!.findings!;
    const original = this.room.isEdited() ? this.room.shown!.original?.findings : null;
    const rows = this.room.about.labels.findings.map((name, i) => {
      const show = this.button(
        `findings_${name}`,
        () => this.room.set({ panel: "findings", finding: i }),
        { class: "plain" },
      );
      return this.bar(show, found[i]!, original?.[i] ?? null, null);
    });
    return el("section", {}, el("h2", {}, say("findings")), el("ul", { class: "bars thin" }, ...rows));
  }

  private hints(): HTMLElement {
    const { hints } = this.room.shown!.prediction!;
    const rows = hints.map((hint) => {
      const values = { ...hint.values };
      if (values.diagnosis) values.diagnosis = say(values.diagnosis);
      return el("li", {}, say(hint.key, values));
    });
    const body = rows.length
      ? el("ul", { class: "hints" }, ...rows)
      : el("p", { class: "small" }, say("no_hints"));
    return el("section", {}, el("h2", {}, say("hints")), body);
  }

  private truth(): HTMLElement {
    const entry = this.room.shown!.entry!;
    const severity = entry.severity === null ? say("truth_unknown") : entry.severity.toFixed(0);
    const diagnosis = entry.diagnosis ? say(entry.diagnosis) : say("truth_unknown");
    const present = Object.entries(entry.findings).filter(([, value]) => value === 1);
    return el(
      "section",
      { class: "truth" },
      el("h2", {}, say("truth")),
      el("p", {}, say("truth_of", { diagnosis, severity })),
      el("p", {}, present.map(([name]) => say(`findings_${name}`)).join(", ")),
      el("p", { class: "small" }, say("truth_outline")),
    );
  }

  private quizBox(): HTMLElement {
    const { quiz } = this.room;
    const title = el("h2", {}, say("quiz"));
    if (!quiz.running) {
      const start = this.button("quiz_start", () => void quiz.start());
      return el("section", { class: "quiz" }, title, el("p", { class: "small" }, say("quiz_help")), start);
    }
    const n = quiz.order.length;
    const parts = quiz.hides() ? this.question(n) : this.afterReply();
    if (!quiz.hides() && quiz.replies.length < n) {
      parts.push(this.button("quiz_next", () => void quiz.next(), { class: "button" }));
    }
    if (quiz.replies.length) parts.push(...this.quizScores());
    parts.push(this.button("quiz_end", () => quiz.end()));
    return el("section", { class: "quiz" }, title, ...parts);
  }

  private question(n: number): HTMLElement[] {
    const { quiz, about } = this.room;
    const boxes = about.labels.zones.map((_, i) => this.zoneBox(i));
    const zones = el("fieldset", { class: "zones" }, el("legend", {}, say("quiz_zones")), ...boxes);
    const names = about.labels.diagnoses.map((name) =>
      this.button(name, () => quiz.answer(name), { class: "button" }),
    );
    const ask = say("quiz_ask", { i: quiz.replies.length + 1, n });
    return [zones, el("p", {}, ask), ...names];
  }

  private zoneBox(i: number): HTMLElement {
    const { quiz } = this.room;
    const side = say(i < 3 ? "right_lung" : "left_lung");
    const height = say(["upper", "middle", "lower"][i % 3]!);
    const box = el("input", {
      type: "checkbox",
      checked: quiz.zones[i] ?? false,
      "aria-label": `${side}, ${height}`,
      onchange: () => quiz.call(i, box.checked),
    });
    return el("label", { class: "check" }, box, `${side}, ${height}`);
  }

  private afterReply(): HTMLElement[] {
    const { reply } = this.room.quiz;
    if (!reply) return [];
    const { yours, truth } = reply;
    const text = yours === truth ? say("quiz_right") : say("quiz_wrong", { truth: say(truth) });
    return [el("p", { class: "reply" }, text)];
  }

  private quizScores(): HTMLElement[] {
    const { quiz } = this.room;
    const n = quiz.replies.length;
    const percent = (share: number | null) => (share === null ? "\u2013" : `${Math.round(100 * share)} %`);
    const row = (key: string, right: number, zones: number | null) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, say(key)),
        el("td", {}, `${right} / ${n}`),
        el("td", {}, percent(zones)),
      );
    const heads = ["diagnoses", "zones"].map((key) => el("th", { scope: "col" }, say(key)));
    const table = el(
      "table",
      {},
      el("caption", {}, say("quiz_score")),
      el("tr", {}, el("td", {}), ...heads),
      row("quiz_you", quiz.right("yours"), quiz.zonesRight("zones")),
      row("quiz_model", quiz.right("model"), quiz.zonesRight("modelZones")),
    );
    const name = el("input", {
      type: "text",
      maxlength: "40",
      autocomplete: "off",
      value: quiz.player,
      oninput: () => (quiz.player = name.value),
    });
    const label = el("label", { class: "field" }, el("span", {}, say("quiz_name")), name);
    return [table, label, this.button("quiz_save", () => quiz.save())];
  }
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}
