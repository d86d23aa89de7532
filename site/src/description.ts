// models.json, as `cxrkit export --onnx` writes it, and films.json of tools/site_images.py.

export interface Preparation {
  stretch: string;
  working_size: string;
  order: string;
  resize: string;
  size: number;
  normalize: string;
  framing: string;
}

export interface NetworkEntry {
  file: string;
  bytes: number;
  size: number;
  outputs: Record<string, number[]>; // shape of one image
  parameters: number;
  licence: string;
}

export interface Bin {
  n: number;
  predicted: number | null;
  observed: number | null;
}

export interface SeverityRules {
  zone_height: "joint" | "own" | "image";
  zone_origin: "lungs" | "image";
  lung_sides: "components" | "midline";
  array_columns: "patient_right" | "image_right";
  zone_maximum: "pixel" | "tenth";
  sigmoid: string;
  severity_score: "soft" | "hard";
  cuts: [number, number];
  debris: number;
  severe: number;
  // of the six values, in the order of labels.zones; null where they stay as pooled
  calibration: { slope: number[]; offset: number[]; nearest: number } | null;
  contour: number; // from where on the map shows a lesion
  healthy: string; // whether normal films took part in the training
}

export interface QualityRules {
  faults: Record<string, string>;
  thresholds: Record<string, number>;
  ranges: Record<string, [number, number]>;
  smallest: number;
  lung_share: number;
  lung_balance: number;
  lung_uncertainty: number;
  lung_agreement: number;
  lung_contrast: number;
}

export interface Description {
  format: number;
  made: { by: string; profile: string; models: string };
  notice: string;
  about: string;
  virtual_only: boolean; // whether no network has seen a film of a patient
  origin: string;
  licence: string;
  labels: { findings: string[]; diagnoses: string[]; zones: string[] };
  networks: Record<string, NetworkEntry>;
  preprocessing: {
    limits_size: number;
    outlier: number;
    normalize: Record<string, { shift: number; scale: number }>;
    image: Preparation;
    lungs: { stretch: string; size: number; normalize: string };
    quality: { stretch: string; size: number; normalize: string };
  };
  lungs: { mirror: boolean; mask_size: number };
  severity: SeverityRules;
  quality: QualityRules;
  diagnosis: Record<
    string,
    { thresholds: Record<string, number>; calibration: Record<string, Bin[]> }
  >;
  follow_up: { limit?: number };
}

export interface Film {
  id: string;
  site: string;
  view: string;
  visit: number;
  patient: string;
  external: boolean;
  diagnosis: string;
  findings: Record<string, number | null>;
  zones: (number | null)[]; // in the order of labels.zones
  severity: number | null;
  width_mm: number | null; // of the film at the detector
  image: string; // names of assets
  lungs: string;
  lesion: string;
  relevance: Record<string, number[][]>; // AttnLRP of each diagnosis, (h, w)
}

// What this page can prepare; null where it can do it all, else the setting that it cannot.
export function unsupported(found: Description): string | null {
  const { image } = found.preprocessing;
  if (found.format !== 1) return `format ${found.format}`;
  if (image.resize !== "plain") return `resize ${image.resize}`;
  if (!(image.normalize in found.preprocessing.normalize)) return `normalize ${image.normalize}`;
  if (image.framing !== "whole") return `framing ${image.framing}`;
  if (found.severity.sigmoid !== "before_mask") return `sigmoid ${found.severity.sigmoid}`;
  if (found.severity.array_columns !== "patient_right") return "array_columns";
  return null;
}
