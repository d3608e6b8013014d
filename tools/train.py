"""`vision train` as a script, for torchrun and `accelerate launch tools/train.py --model ... --data ... --out ...`."""

import sys

from vision.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
