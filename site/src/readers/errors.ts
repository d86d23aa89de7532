// Why a file cannot be read, as a key of the strings with the words that belong in it.

export class ReadError extends Error {
  constructor(
    readonly key: string,
    readonly values: Record<string, string> = {},
  ) {
    super(key);
  }
}

export const PIXEL_LIMIT = 89_478_485; // of one image, as in the package
export const FILE_LIMIT = 2 ** 28; // bytes: a page has less memory than the package
export const SMALLEST = 32; // px

export function checkSize(width: number, height: number): void {
  if (!(width > 0 && height > 0)) throw new ReadError("damaged");
  if (width * height > PIXEL_LIMIT) {
    throw new ReadError("too_many_pixels", { size: `${width} x ${height}` });
  }
}
