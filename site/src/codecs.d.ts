// The codecs come without types; each exports a function that starts its WebAssembly.

declare module "@cornerstonejs/codec-charls/decode" {
  const start: () => Promise<any>;
  export default start;
}

declare module "@cornerstonejs/codec-openjpeg/decode" {
  const start: () => Promise<any>;
  export default start;
}

declare module "jpeg-lossless-decoder-js" {
  export class Decoder {
    decompress(buffer: ArrayBufferLike, offset?: number, length?: number): ArrayBuffer;
  }
}
