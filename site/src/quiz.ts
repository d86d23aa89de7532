// Quiz: the films of the list in a mixed order, the reader's diagnosis and zones beside the
// model's. The table of answers is that of cxrkit/reading_room/quiz.py, so that a teacher can put
// the files of a class in one folder for `read_answers` and `scoreboard`.

import { download } from "./dom";
import type { Room } from "./main";

export const INVOLVED = 0.5; // a predicted zone from this value on counts as involved
const LONGEST = 40; // letters of a name

export interface Reply {
  film: string; // id
  name: string; // on the list
  yours: string;
  model: string;
  truth: string;
  zones: boolean[]; // that the reader called involved, in the order of labels.zones
  modelZones: boolean[];
  trueZones: boolean[] | null; // null where one is unknown
  modelSeverity: number;
}

// A cell of a CSV file; a text that begins like a formula is quoted, for spreadsheets.
function cell(value: string | number | null): string {
  if (value === null) return "";
  const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : `${value}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function agreement(zones: boolean[], truth: boolean[] | null): number | null {
  return truth && zones.filter((zone, i) => zone === truth[i]).length / zones.length;
}

function count(zones: boolean[] | null): number | null {
  return zones && zones.filter(Boolean).length;
}

export class Quiz {
  order: string[] = [];
  replies: Reply[] = [];
  player = "";
  zones: boolean[] = []; // called involved on the film that is asked

  constructor(private readonly room: Room) {}

  get running(): boolean {
    return this.order.length > 0;
  }

  get place(): number {
    return this.order.indexOf(this.room.state.film);
  }

  get reply(): Reply | null {
    return this.replies.find((one) => one.film === this.room.state.film) ?? null;
  }

  // Whether what the networks say, and the truth, stay hidden for now.
  hides(): boolean {
    return this.running && this.place >= 0 && !this.reply;
  }

  async start(): Promise<void> {
    const known = this.room.films.filter((one) => one.diagnosis);
    this.order = known.map((one) => one.id);
    for (let i = this.order.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [this.order[i], this.order[j]] = [this.order[j]!, this.order[i]!];
    }
    this.replies = [];
    await this.ask(this.order[0]!);
  }

  end(): void {
    this.order = [];
    this.room.set({});
  }

  private async ask(film: string): Promise<void> {
    this.zones = this.room.about.labels.zones.map(() => false);
    this.room.set({ panel: "film", truth: false });
    await this.room.openEntry(film);
  }

  call(zone: number, involved: boolean): void {
    this.zones[zone] = involved;
  }

  answer(yours: string): void {
    const { shown, about } = this.room;
    const found = shown?.prediction;
    if (!found || !shown?.entry || this.reply) return;
    const { entry } = shown;
    const known = entry.zones.every((value) => value !== null);
    this.replies.push({
      film: entry.id,
      name: shown.name,
      yours,
      model: about.labels.diagnoses[found.probs.indexOf(Math.max(...found.probs))]!,
      truth: entry.diagnosis,
      zones: [...this.zones],
      modelZones: found.array.map((value) => value >= INVOLVED),
      trueZones: known ? entry.zones.map((value) => value! >= INVOLVED) : null,
      modelSeverity: found.score,
    });
    this.room.set({});
  }

  async next(): Promise<void> {
    const answered = new Set(this.replies.map((one) => one.film));
    const left = this.order.filter((id) => !answered.has(id));
    if (left.length) await this.ask(left[0]!);
    this.room.set({});
  }

  right(who: "yours" | "model"): number {
    return this.replies.filter((one) => one[who] === one.truth).length;
  }

  // Share of zones that agree with the truth, over all films of known zones; null without any.
  zonesRight(who: "zones" | "modelZones"): number | null {
    const known = this.replies.filter((one) => one.trueZones);
    if (!known.length) return null;
    const sum = known.reduce((total, one) => total + agreement(one[who], one.trueZones)!, 0);
    return sum / known.length;
  }

  table(): string {
    const { zones } = this.room.about.labels;
    const player = this.player.trim().replace(/\s+/g, " ").slice(0, LONGEST) || "reader";
    const heads = ["player", "film", "diagnosis", "model", "true", ...zones];
    heads.push("zones", "model_zones", "reader_zones");
    heads.push("severity", "model_severity", "reader_severity", "true_severity");
    const rows = this.replies.map((one) => [
      ...[player, one.name, one.yours, one.model, one.truth],
      ...one.zones.map(Number),
      ...[agreement(one.zones, one.trueZones), agreement(one.modelZones, one.trueZones), null],
      ...[count(one.zones), one.modelSeverity, null, count(one.trueZones)],
    ]);
    return [heads, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  save(): void {
    download("quiz.csv", new Blob([this.table()], { type: "text/csv" }));
  }
}
