#!/usr/bin/env bash
# Checks and times distill on a machine with an NVIDIA GPU, from what `cargo xtask cuda pack` has put beside this file.
#
#   bash check.sh PART... [--data DIR] [--out DIR] [--tiny] [--emulator DIR]
#
# PART: suite, speed, fixmatch, job (docs/cuda.md says what each does); a part ends within nine minutes. Needs python3 with
# PyTorch for CUDA 13, whose wheels hold cuDNN and the rest; no cargo, no network. `--data` names a folder with CIFAR-10 as
# train.parquet and test.parquet. `--out` gets two files a part. The exit code is that of the worst part.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

programs=${DISTILL_CHECK_PROGRAMS:-/tmp/distill-check}
mkdir -p "$programs"
"$python" - "$here/programs.tar.xz" "$programs" <<'UNPACK' || exit 1
import sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2], filter="data")
UNPACK

emulator='' previous=''
for argument in "$@"; do
  [ "$previous" != --emulator ] || emulator=$argument
  previous=$argument
done
if [ -n "$emulator" ]; then
  libraries=$emulator
else
  wheels=$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])') || wheels=/nowhere
  libraries=$wheels/cu13/lib:$wheels/cudnn/lib
  # Where a driver lies that the loader does not know.
  for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
    [ ! -e "$folder/libcuda.so.1" ] || libraries=$libraries:$folder
  done
fi
export DISTILL_CUDA_LIBRARIES=$libraries PYTHONUNBUFFERED=1
exec "$python" "$here/check.py" "$@" --programs "$programs"
