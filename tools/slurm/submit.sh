#!/bin/bash
# All stages of a profile as Slurm jobs, each after those that it depends on (docs/cluster.md).
#   tools/slurm/submit.sh --profile public --data /shared/data --out /shared/results
# prints the number of each job; SEVERITY=alternation makes the models of Table 6, one for each site in turn, in place of one.
set -euo pipefail
here=$(dirname "$0")

submit() { # submit NAME DEPENDENCIES OPTIONS...: prints the job's number
    local name=$1 after=$2
    shift 2
    local options=(--parsable --job-name="cxrkit-$name")
    if [ -n "$after" ]; then options+=(--dependency="afterok:$after"); fi
    sbatch "${options[@]}" "$here/stage.sbatch" "$name" "$@"
}

backbone=$(submit backbone "" "$@")
segmenter=$(submit segmenter "" "$@")
pa=$(submit diagnosis_pa "$backbone" "$@")
ap=$(submit diagnosis_ap "$backbone" "$@")
severity=$(submit "${SEVERITY:-severity}" "$pa:$segmenter" "$@")
saliency=$(submit saliency_benchmark "$pa:$ap" "$@")
echo "backbone $backbone"
echo "segmenter $segmenter"
echo "diagnosis_pa $pa"
echo "diagnosis_ap $ap"
echo "${SEVERITY:-severity} $severity"
echo "saliency_benchmark $saliency"
