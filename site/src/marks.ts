// Marks on a figure, and the two ways to draw them: on a canvas, and as an SVG file.

export const FONT = "system-ui, 'Segoe UI', Roboto, sans-serif";

interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export type Mark =
  | (Box & {
      kind: "image";
      source: HTMLCanvasElement;
      opacity: number;
      smooth: boolean;
      clip: string | null; // a path; outside of it nothing is shown
    })
  | { kind: "path"; path: string; colour: string; line: number; dash: number[] }
  | (Box & { kind: "box"; colour: string })
  | {
      kind: "text";
      text: string;
      x: number;
      y: number; // of the base line
      size: number;
      align: "left" | "right";
      colour: string; // white letters have a dark edge
    };

export function canvasOf(
  width: number,
  height: number,
): [HTMLCanvasElement, CanvasRenderingContext2D] {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return [canvas, canvas.getContext("2d")!];
}

const EDGE = 0.2; // width of the dark edge of white letters, in sizes of a letter

function hasEdge(colour: string): boolean {
  return colour === "#fff";
}

export function paint(canvas: HTMLCanvasElement, marks: Mark[], width: number, height: number): void {
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
  }
  const context = canvas.getContext("2d")!;
  for (const mark of marks) paintMark(context, mark);
}

function paintMark(context: CanvasRenderingContext2D, mark: Mark): void {
  context.save();
  if (mark.kind === "image") {
    if (mark.clip) context.clip(new Path2D(mark.clip), "evenodd");
    context.globalAlpha = mark.opacity;
    context.imageSmoothingEnabled = mark.smooth;
    context.drawImage(mark.source, mark.x, mark.y, mark.width, mark.height);
  } else if (mark.kind === "path") {
    context.strokeStyle = mark.colour;
    context.lineWidth = mark.line;
    context.lineJoin = "round";
    context.setLineDash(mark.dash);
    context.stroke(new Path2D(mark.path));
  } else if (mark.kind === "box") {
    context.fillStyle = mark.colour;
    context.fillRect(mark.x, mark.y, mark.width, mark.height);
  } else {
    context.font = `${mark.size}px ${FONT}`;
    context.textAlign = mark.align;
    if (hasEdge(mark.colour)) {
      context.strokeStyle = "#000";
      context.lineWidth = EDGE * mark.size;
      context.lineJoin = "round";
      context.strokeText(mark.text, mark.x, mark.y);
    }
    context.fillStyle = mark.colour;
    context.fillText(mark.text, mark.x, mark.y);
  }
  context.restore();
}

function escaped(text: string): string {
  const names: Record<string, string> = { "&": "amp", "<": "lt", ">": "gt", '"': "quot" };
  return text.replace(/[&<>"]/g, (letter) => `&${names[letter]};`);
}

// A file of its own: film and map as PNG inside, all else as lines and letters.
export function svgOf(marks: Mark[], width: number, height: number, title: string): string {
  const clips: string[] = [];
  const parts = marks.map((mark) => svgMark(mark, clips));
  const defs = clips.map((path, i) => `<clipPath id="c${i}"><path d="${path}" clip-rule="evenodd"/></clipPath>`);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
      `width="${width}" height="${height}" role="img" font-family="${FONT}">`,
    `<title>${escaped(title)}</title>`,
    `<defs>${defs.join("")}</defs>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}

function svgMark(mark: Mark, clips: string[]): string {
  if (mark.kind === "image") {
    const { x, y, width, height, opacity, source } = mark;
    let more = mark.smooth ? "" : ' style="image-rendering:pixelated"';
    if (mark.clip) more += ` clip-path="url(#c${clips.push(mark.clip) - 1})"`;
    return (
      `<image x="${x}" y="${y}" width="${width}" height="${height}" opacity="${opacity}" ` +
      `preserveAspectRatio="none"${more} href="${source.toDataURL("image/png")}"/>`
    );
  }
  if (mark.kind === "path") {
    const dash = mark.dash.length ? ` stroke-dasharray="${mark.dash.join(" ")}"` : "";
    return (
      `<path d="${mark.path}" fill="none" stroke="${mark.colour}" stroke-width="${mark.line}" ` +
      `stroke-linejoin="round"${dash}/>`
    );
  }
  if (mark.kind === "box") {
    const { x, y, width, height, colour } = mark;
    return `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="${colour}"/>`;
  }
  const { x, y, size, align, colour, text } = mark;
  const edge = hasEdge(colour)
    ? ` stroke="#000" stroke-width="${EDGE * size}" stroke-linejoin="round" paint-order="stroke"`
    : "";
  const anchor = align === "right" ? "end" : "start";
  return (
    `<text x="${x}" y="${y}" font-size="${size}" text-anchor="${anchor}" fill="${colour}"${edge}>` +
    `${escaped(text)}</text>`
  );
}
