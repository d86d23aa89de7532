// A file -> one grey film, or a ReadError. What the file is called does not matter.

import type { Film } from "../predict";
import { readDicom, isDicom } from "./dicom";
import { FILE_LIMIT, ReadError, SMALLEST } from "./errors";
import { readJpeg, readPng } from "./rasters";

export { ReadError } from "./errors";

export async function readFilm(content: Uint8Array): Promise<Film> {
  if (!content.length) throw new ReadError("empty");
  if (content.length > FILE_LIMIT) throw new ReadError("too_large");
  const film = await readAny(content);
  const { data, width, height } = film.pixels;
  if (Math.min(width, height) < SMALLEST) {
    throw new ReadError("too_small_to_read", { size: `${width} x ${height}` });
  }
  const first = data[0];
  if (data.every((value: number) => value === first)) throw new ReadError("one_value");
  return film;
}

async function readAny(content: Uint8Array): Promise<Film> {
  try {
    if (isDicom(content)) return await readDicom(content);
    if (content[0] === 0x89 && content[1] === 0x50) return readPng(content);
    if (content[0] === 0xff && content[1] === 0xd8) return await readJpeg(content);
  } catch (error) {
    // whatever a decoder stumbles over, the file is damaged or of a kind that it does not know
    if (error instanceof ReadError) throw error;
    const known = new ReadError("damaged");
    known.cause = error;
    throw known;
  }
  throw new ReadError("unknown_kind");
}
