#!/usr/bin/env bash
# Every check and every figure that needs a GPU, in one command of at most ten minutes:  bash tools/gpu_checks.sh [OUT]
# Needs the package's dependencies on the path; each part has its own time limit, and a part that fails does not keep
# the others from running. Logs are written to OUT (default: gpu_checks).
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu_checks}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
failed=0

part() {  # part NAME SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || { failed=1; echo "   failed (see $out/$name.log)"; }
    tail -n 25 "$out/$name.log"
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())' || exit 2
part tests 200 "$python" -m pytest -q -m "gpu and not slow" -p no:cacheprovider tests
part bench_metrics 80 "$python" tools/bench_metrics.py --device cuda --ours --only box confusion surface panoptic
part bench_segmenters 110 "$python" tools/bench_segmenters.py --device cuda
part bench_detectors 90 "$python" tools/bench_detectors.py --device cuda --models retinanet_resnet50_fpn \
    fasterrcnn_resnet50_fpn maskrcnn_resnet50_fpn fcos_resnet50_fpn ssdlite320_mobilenet_v3_large
part train_detector 100 "$python" -m vision.cli train --model yolo_n --data shapes --image-size 160 --epochs 5 --out "$out/yolo"
exit $failed
