// The parts that build.mjs writes beside or into the page, packed with gzip as text.

declare global {
  interface Window {
    CXRKIT?: Record<string, string>;
  }
}

export function has(name: string): boolean {
  return !!self.CXRKIT && name in self.CXRKIT;
}

// When all parts have arrived; those of the films come before the page's own code.
export function complete(): Promise<void> {
  return new Promise((done) => {
    if (document.readyState === "complete") done();
    else addEventListener("load", () => done(), { once: true });
  });
}

export async function bytes(name: string): Promise<Uint8Array> {
  const text = self.CXRKIT?.[name];
  if (text === undefined) throw new Error(`${name} is no part of this page; build it again`);
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function words(name: string): Promise<string> {
  return new TextDecoder().decode(await bytes(name));
}

export async function json<T>(name: string): Promise<T> {
  return JSON.parse(await words(name)) as T;
}
