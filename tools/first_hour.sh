#!/usr/bin/env bash
# The first hour of a newcomer, from README alone, in a clean clone: every step must work as written.
#     tools/first_hour.sh [FOLDER]                 clones this repository into FOLDER, or a temporary one
#     FIRST_HOUR_PYTHON=PYTHON tools/first_hour.sh takes the libraries of this interpreter, and installs nothing
# It prints the seconds of each step. The last line says how many steps worked.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
clone=$work/cxrkit
export CXRKIT_STORE=$work/store
git clone --quiet --depth 1 "file://$here" "$clone"
cd "$clone"

python=${FIRST_HOUR_PYTHON:-$clone/.venv/bin/python}
[ -z "${FIRST_HOUR_PYTHON:-}" ] || export PYTHONPATH=$clone

steps=0
step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name: $*"
  "$@"
  steps=$((steps + 1))
  echo "== $name took $((SECONDS - start)) s"
}
cxrkit() { "$python" -m cxrkit "$@"; }

draw_films() { # ten films of a virtual hospital stand for those of one's own
  "$python" - "$work/our_hospital" <<'PYTHON'
import sys
from pathlib import Path

import cv2
import pandas as pd

from cxrkit.simulation import Hospital

folder = Path(sys.argv[1])
folder.mkdir()
films = Hospital("alder", seed=7, ward="severity", n=10, size=128)
rows = []
for i in range(10):
    patient = films[i]
    cv2.imwrite(str(folder / f"{i}.png"), patient.image)
    row = {"path": f"{i}.png", "patient_id": patient.patient_id, "view": patient.view}
    rows.append(row | {"diagnosis": patient.diagnosis, "site": "ours", "visit": patient.visit})
pd.DataFrame(rows).to_csv(folder / "films.csv", index=False)
PYTHON
}

send_a_patch() {
  git switch --quiet -c better-glossary
  printf '\nfilm\n  A radiograph.\n' >"$work/entry"
  sed -i "/^\`\`\`{glossary}/r $work/entry" docs/glossary.md
  "$python" -m ruff check --quiet .
  "$python" -m pytest -q -p no:cacheprovider tests/repository/test_words.py
  git -c user.name=newcomer -c user.email=newcomer@example.org commit --quiet -am "Say what a film is"
  git format-patch -1 -o "$work"
}

[ -n "${FIRST_HOUR_PYTHON:-}" ] || step install make install
step doctor cxrkit doctor
step "one lesson" cxrkit reproduce --profile demo --only 01
step "a hospital of ten films" draw_films
step "is its table sound" cxrkit data verify local --root "$work/our_hospital"
step "predict on own files" cxrkit predict "$work/our_hospital/0.png" --profile demo --out "$work/results"
test -s "$work/results/predictions.csv"
step "what would it cost" cxrkit reproduce --profile demo --plan
step "change one choice" cxrkit reproduce --profile demo --set choices.class_head=binary --plan
step "add an explanation method" "$python" -m pytest -q -p no:cacheprovider tests/repository/test_extend.py
step "send a patch" send_a_patch
ls "$work"/*.patch
echo "== $steps steps worked in $SECONDS s"
