"""`vision train` as a script, for several processes on one machine or many.

    accelerate launch --multi_gpu --num_processes 2 tools/train.py --model ... --data ... --out ...
    torchrun --nproc_per_node 2 tools/train.py --model ... --data ... --out ...

Both work without a GPU too (`--device cpu`); accelerate's own `--cpu` starts several processes only under MPI.
"""

import sys

from vision.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
