// Builds the page in two forms: dist/ (a folder for any file server) and dist/room.html (one file).
//
//     node build.mjs [--models build/models] [--films build/films]
//
// Both hold the same parts. What is large (networks, the WebAssembly of ONNX Runtime, films) is
// packed with gzip and written as text, because a page that was opened as a file may load scripts
// but read no other file, and because the page's own rules forbid it every connection.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const here = fileURLToPath(new URL(".", import.meta.url));
const { values: options } = parseArgs({
  options: {
    models: { type: "string", default: join(here, "build", "models") },
    films: { type: "string", default: join(here, "build", "films") },
    out: { type: "string", default: join(here, "dist") },
  },
});

// The packages whose code is in the page, with their licences.
const PACKAGES = [
  "onnxruntime-web",
  "dicom-parser",
  "@cornerstonejs/codec-charls",
  "@cornerstonejs/codec-openjpeg",
  "jpeg-lossless-decoder-js",
  "fast-png",
  "fflate",
  "iobuffer",
];

function fail(message) {
  console.error(message);
  process.exit(1);
}

// ONNX Runtime looks for its WebAssembly beside itself; here it is given by the page, and no copy
// of it belongs in the script.
const withoutAddresses = {
  name: "without-addresses",
  enforce: "pre",
  transform(code, file) {
    if (!file.includes("onnxruntime-web")) return null;
    return code
      .replaceAll(/new URL\("ort-wasm[^"]*\.wasm",\s*import\.meta\.url\)/g, 'new URL("about:blank")')
      .replaceAll("import.meta.url", "self.location.href");
  },
};

// One script without imports.
async function bundle(entry, name) {
  const result = await build({
    root: here,
    configFile: false,
    logLevel: "error",
    plugins: [withoutAddresses],
    // the codecs ask for node's modules where there is a process; a page has none
    define: { "process.env.NODE_ENV": '"production"' },
    build: {
      write: false,
      target: "es2022",
      assetsInlineLimit: 0,
      lib: { entry: join(here, "src", entry), name, formats: ["iife"], fileName: () => `${name}.js` },
    },
  });
  const { output } = Array.isArray(result) ? result[0] : result;
  return output.find((part) => part.type === "chunk").code;
}

function licences() {
  return PACKAGES.map((name) => {
    const folder = join(here, "node_modules", name);
    const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
    const text = file ? readFileSync(join(folder, file), "utf8") : "";
    return { name, version: about.version, licence: about.license, text };
  });
}

function packed(content) {
  return gzipSync(content, { level: 9 }).toString("base64");
}

function asset(name, content) {
  return `(self.CXRKIT ??= {})[${JSON.stringify(name)}] = ${JSON.stringify(packed(content))};\n`;
}

// A closing tag inside of a script would end it.
function inlined(code) {
  return code.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
}

function policy(scripts, styles) {
  return [
    "default-src 'none'",
    `script-src ${scripts} 'wasm-unsafe-eval'`,
    `style-src ${styles}`,
    "img-src data: blob:",
    "worker-src blob:",
    "connect-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
}

function digest(text) {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

for (const [folder, file, command] of [
  [options.models, "models.json", "cxrkit export --onnx site/build/models"],
  [options.films, "films.json", "python tools/site_images.py site/build/films"],
]) {
  if (!existsSync(join(folder, file))) fail(`${join(folder, file)} is missing; run: ${command}`);
}

const worker = await bundle("networks.worker.ts", "worker");
const page = await bundle("main.ts", "room");
const style = readFileSync(join(here, "src", "style.css"), "utf8");
const template = readFileSync(join(here, "index.html"), "utf8");
const runtime = join(here, "node_modules", "onnxruntime-web", "dist", "ort-wasm-simd-threaded.wasm");

// What is shown first comes first: films and the page itself, then the networks.
const films = readdirSync(options.films).filter((name) => /\.(json|png)$/.test(name));
const models = readdirSync(options.models).filter((name) => /\.onnx$/.test(name));
const model = (name) => asset(name, readFileSync(join(options.models, name)));
const scripts = {
  films: [
    model("models.json"),
    ...films.map((name) => asset(name, readFileSync(join(options.films, name)))),
    asset("licences.json", JSON.stringify(licences())),
  ].join(""),
  room: page,
  networks: [
    ...models.map(model),
    asset("worker.js", worker),
  ].join(""),
  runtime: asset("runtime.wasm", readFileSync(runtime)),
};

rmSync(options.out, { recursive: true, force: true });
mkdirSync(options.out, { recursive: true });
for (const [name, code] of Object.entries(scripts)) {
  writeFileSync(join(options.out, `${name}.js`), code);
}
writeFileSync(join(options.out, "style.css"), style);
writeFileSync(
  join(options.out, "index.html"),
  template
    .replace("%POLICY%", () => policy("'self'", "'self'"))
    .replace("%STYLE%", () => '<link rel="stylesheet" href="style.css">')
    .replace("%SCRIPTS%", () =>
      Object.keys(scripts)
        .map((name) => `<script src="${name}.js" defer></script>`)
        .join("\n"),
    ),
);

const inline = Object.values(scripts).map(inlined);
writeFileSync(
  join(options.out, "room.html"),
  template
    .replace("%POLICY%", () => policy(inline.map(digest).join(" "), digest(style)))
    .replace("%STYLE%", () => `<style>${style}</style>`)
    .replace("%SCRIPTS%", () => inline.map((code) => `<script>${code}</script>`).join("\n")),
);
const whole = readFileSync(join(options.out, "room.html"));
const megabytes = (n) => `${(n / 1e6).toFixed(1)} MB`;
console.log(`${resolve(options.out)}: the folder for a file server`);
console.log(
  `${basename(options.out)}/room.html: one file, ${megabytes(whole.length)}, ` +
    `${megabytes(gzipSync(whole).length)} compressed`,
);
