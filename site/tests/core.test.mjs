// What the page computes on arrays, against what the package computed (tools/site_images.py).

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { bytes, core, image, json, reference, site } from "./bundle.mjs";

// what the browser decodes, or WebAssembly that does not start in a module of node: page.test.mjs
const IN_BROWSER = /\.jpg$|jpeg\.dcm$|JPEG2000|JPEGLS/;

let page, about, arrays, films;
before(async () => {
  page = await core();
  about = json(site, "build", "models", "models.json");
  arrays = json(reference, "arrays.json");
  films = json(reference, "films.json");
});

function farthest(found, expected) {
  assert.equal(found.length, expected.length);
  let most = 0;
  for (let i = 0; i < found.length; i++) most = Math.max(most, Math.abs(found[i] - expected[i]));
  return most;
}

describe("preprocessing", () => {
  test("every step is within one grey level of the package's, on arrays of all kinds", () => {
    const rules = about.preprocessing;
    const size = rules.image.size;
    let exact = 0;
    for (const one of arrays) {
      const pixels = image(one);
      const grey = page.toUint8(pixels, rules.image.stretch, rules);
      assert.ok(farthest(grey.data, bytes(one.grey)) <= 1, `stretch ${one.width}x${one.height}`);
      // the next steps start from the package's grey, so that each is compared by itself
      const given = { ...grey, data: bytes(one.grey) };
      assert.equal(farthest(page.equalize(given).data, bytes(one.equalized)), 0);
      assert.equal(farthest(page.blur(given).data, bytes(one.blurred)), 0);
      const far = farthest(page.resize(given, size).data, bytes(one.resized));
      assert.ok(far <= 1, `resize ${one.width}x${one.height}`);
      if (far === 0) exact++;
    }
    console.log(`resized alike in every pixel: ${exact} of ${arrays.length} arrays`);
  });

  test("films and arrays are as the networks see them", async () => {
    const rules = about.preprocessing;
    const seen = (pixels) => page.prepare(pixels, rules.image, rules).data;
    let exact = 0;
    for (const [id, expected] of Object.entries(films)) {
      const content = new Uint8Array(readFileSync(join(site, "build", "films", `${id}.png`)));
      const { pixels } = await page.readFilm(content);
      assert.equal(farthest(seen(pixels), bytes(expected.input)), 0, id);
    }
    for (const one of arrays) {
      const far = farthest(seen(image(one)), bytes(one.prepared));
      assert.ok(far <= 1, `${one.width}x${one.height}, ${one.bits} bits: ${far} grey levels`);
      if (far === 0) exact++;
    }
    console.log(`prepared alike in every pixel: ${exact} of ${arrays.length} arrays`);
  });
});

describe("quality", () => {
  test("simple measures are the package's", () => {
    for (const one of arrays) {
      const found = page.quantities(image(one), about);
      for (const [name, value] of Object.entries(one.quantities)) {
        const slack = name === "grain" ? 0.02 * Math.max(value, 0.05) : 0.005;
        assert.ok(Math.abs(found[name] - value) <= slack, `${name} ${found[name]} ${value}`);
      }
    }
  });
});

test("lungs are as dark against their surroundings as the package finds them", async () => {
  const size = about.lungs.mask_size;
  for (const [id, expected] of Object.entries(films)) {
    const content = new Uint8Array(readFileSync(join(site, "build", "films", `${id}.png`)));
    const { pixels } = await page.readFilm(content);
    const mask = { data: bytes(expected.lungs), width: size, height: size };
    const found = page.lungContrast(pixels, mask, about);
    assert.ok(Math.abs(found - expected.lung_contrast) <= 0.005, `${id}: ${found}`);
  }
});

describe("geometry", () => {
  const rules = {
    zone_height: "joint",
    zone_origin: "lungs",
    lung_sides: "components",
    debris: 0.05,
  };
  const drawn = (text) => {
    const rows = text.trim().split(/\s+/);
    const data = Uint8Array.from(rows.join(""), (letter) => (letter === "#" ? 1 : 0));
    return { data, width: rows[0].length, height: rows.length };
  };

  test("holes are filled and the third component goes", () => {
    const found = page.cleanMask(drawn("####..##. #..#..##. ####..... ........#"));
    assert.deepEqual(found.data, drawn("####..##. ####..##. ####..... .........").data);
  });

  test("touching corners do not join, and a hole that is open at the border stays", () => {
    const found = page.cleanMask(drawn("##... ##... ..##. ..##."));
    assert.equal(found.data.reduce((a, b) => a + b), 8);
    const open = drawn("#.# #.# ###");
    assert.deepEqual(page.cleanMask(open).data, open.data);
  });

  test("zones are cut at 5/12 and 2/3 of the height of both lungs", () => {
    const rows = Array.from({ length: 12 }, () => "##..##").join(" ");
    const zones = page.zonesOf(drawn(rows), rules, [5 / 12, 2 / 3]);
    const first = Array.from({ length: 12 }, (_, row) => zones.data[6 * row]);
    assert.deepEqual(first, [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]);
    const last = Array.from({ length: 12 }, (_, row) => zones.data[6 * row + 5]);
    assert.deepEqual(last, first.map((zone) => zone + 3));
  });

  test("fused lungs are cut at the thinnest column of their middle third", () => {
    const [right, left] = page.sides(drawn("##...## ####### ##...##"), rules);
    assert.equal(right.data.reduce((a, b) => a + b) + left.data.reduce((a, b) => a + b), 14);
  });

  test("zones are calibrated by a line through their log-odds, and an absent one stays 0", () => {
    const lines = { slope: [1, 2, 0, 1, 1, 1], offset: [0, 0, 0, 1, 0, 0], nearest: 1e-4 };
    const found = page.calibrated([0.3, 0.75, 0.9, 0.5, 0, 1], lines);
    // by hand: 0.3; odds 3 squared are 9; slope 0 is one half; odds 1 times e; absent; the nearest to 1
    const expected = [0.3, 0.9, 0.5, Math.E / (1 + Math.E), 0, 1 - 1e-4];
    found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-12, `${i} ${value}`));
    assert.deepEqual(page.calibrated([0.3], null), [0.3]);
  });

  test("a zone is the mean of the highest tenth of its pixels, rounded up", () => {
    const map = Float32Array.from({ length: 24 }, (_, i) => i / 24);
    const data = new Uint8Array(24).fill(255).fill(0, 0, 11).fill(4, 11, 12);
    const zones = { data, width: 24, height: 1, extents: [null, null] };
    const found = page.poolZones(map, zones, "tenth");
    assert.ok(Math.abs(found[0] - (10 + 9) / 48) < 1e-6);
    assert.ok(Math.abs(found[4] - 11 / 24) < 1e-6);
    assert.equal(found[1], 0);
    assert.ok(Math.abs(page.poolZones(map, zones, "pixel")[0] - 10 / 24) < 1e-6);
  });
});

describe("readers", () => {
  test("files are read to the package's pixels", async () => {
    const expected = json(reference, "files", "sound.json");
    for (const [name, one] of Object.entries(expected)) {
      if (IN_BROWSER.test(name)) continue;
      const content = new Uint8Array(readFileSync(join(reference, "files", name)));
      const { pixels } = await page.readFilm(content);
      const wanted = image(one);
      assert.equal(pixels.data.constructor.name, wanted.data.constructor.name, name);
      assert.equal(farthest(pixels.data, wanted.data), 0, name);
    }
  });

  test("damaged files are read or refused with a known reason", async () => {
    const folder = join(reference, "files", "damaged");
    const counts = { read: 0, refused: 0 };
    for (const name of readdirSync(folder)) {
      if (IN_BROWSER.test(name)) continue;
      try {
        await page.readFilm(new Uint8Array(readFileSync(join(folder, name))));
        counts.read++;
      } catch (error) {
        assert.ok(error instanceof page.ReadError, `${name}: ${error.stack}`);
        assert.ok(page.isKey(error.key), error.key);
        counts.refused++;
      }
    }
    assert.ok(counts.refused > 50, JSON.stringify(counts));
    console.log(counts);
  });
});

describe("links", () => {
  const base = () => page.defaults("film01", { cuts: [0.4, 0.7], contour: 0.45 });

  test("a link brings back what was shown", () => {
    const state = { ...base(), panel: "severity", threshold: 0.25, cuts: [0.3, 0.6], truth: true };
    assert.deepEqual(page.fromFragment(page.toFragment(state, base()), base()), state);
  });

  test("what does not fit in a link is left out", () => {
    const text = "film=x&panel=__proto__&threshold=7&cuts=0.9,0.1&cell=-3&language=xx&opacity=abc";
    const found = page.fromFragment(`#${text}`, base());
    assert.deepEqual(found, { ...base(), film: "x", threshold: 1, cell: 0 });
  });
});

test("all languages say the same things with the same values", () => {
  const placeholders = (text) => [...text.matchAll(/\{\w+\}/g)].map(String).sort().join();
  const read = (table) =>
    Object.fromEntries(Object.entries(table).map(([key, text]) => [key, placeholders(text)]));
  const english = read(page.tables.en);
  assert.ok(Object.keys(english).length > 100);
  assert.deepEqual(Object.keys(page.tables).sort(), Object.keys(page.LANGUAGES).sort());
  for (const [language, table] of Object.entries(page.tables)) {
    assert.deepEqual(read(table), english, language);
    assert.ok(Object.values(table).every((text) => text.trim()), language);
  }
});

test("every string is used, and every string that is used is there", () => {
  const folder = join(site, "src");
  const files = readdirSync(folder, { recursive: true }).filter((name) => /\.ts$/.test(name));
  const source = files
    .filter((name) => !/strings\.ts$/.test(name))
    .map((name) => readFileSync(join(folder, name), "utf8"))
    .join("\n");
  const { labels, quality } = about;
  const made = [
    ...Object.keys(quality.faults).map((name) => `fault_${name}`),
    ...Object.keys(quality.ranges).map((name) => `range_${name}`),
    ...labels.findings.map((name) => `findings_${name}`),
    ...labels.diagnoses,
  ];
  const panels = page.PANELS.map((name) => `panel_${name}`);
  const edits = page.EDITS.map((name) => `edit_${name}`);
  const known = new Set([...made, ...panels, ...edits]);
  const unused = Object.keys(page.tables.en).filter(
    (key) => !known.has(key) && !source.includes(`"${key}"`),
  );
  assert.deepEqual(unused, []);
  for (const key of known) assert.ok(page.isKey(key), key);
  for (const [, key] of source.matchAll(/\bsay\("(\w+)"/g)) assert.ok(page.isKey(key), key);
});
