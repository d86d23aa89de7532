// The modules of the page that need no browser, as one that node can import.

import { writeFileSync } from "node:fs";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

export const site = fileURLToPath(new URL("..", import.meta.url));
export const reference = join(site, "build", "reference");

export function json(...path) {
  return JSON.parse(readFileSync(join(...path), "utf8"));
}

export function bytes(text) {
  return new Uint8Array(Buffer.from(text, "base64"));
}

// A grey image of the reference: {height, width, bits, pixels}.
export function image({ height, width, bits, pixels }) {
  const data = bytes(pixels);
  return { data: bits === 8 ? data : new Uint16Array(data.buffer), width, height };
}

export async function core() {
  const modules = ["arrays", "preprocessing", "geometry", "quality", "state", "strings", "edits", "readers/index"];
  const lines = modules.map((name) => `export * from ${JSON.stringify(join(site, "src", name))};`);
  const entry = join(site, "build", "core.ts");
  writeFileSync(entry, lines.join("\n"));
  const result = await build({
    root: site,
    configFile: false,
    logLevel: "error",
    build: {
      write: false,
      target: "node20",
      minify: false,
      lib: { entry, formats: ["es"], fileName: "core" },
    },
  });
  const { output } = Array.isArray(result) ? result[0] : result;
  const path = join(site, "build", "core.mjs");
  writeFileSync(path, output.find((part) => part.type === "chunk").code);
  return import(path);
}
