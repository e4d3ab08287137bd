#!/usr/bin/env bash
# FBGEMM's CUDA wheel for a machine that can fetch nothing and takes 64 MiB a call.
#
#   benchmarks/gpu_wheel.sh prepare [VERSION] [PYTHON] [ARCH]   here: pack into .carry/fbgemm/00, 01, ... (56 MiB each)
#   benchmarks/gpu_wheel.sh keep .carry/fbgemm/00 ...           there: copy the parts that a call carried to /tmp
#   . benchmarks/gpu_wheel.sh join                              there: once all parts are kept, check their sum, unpack
#                                                               to /tmp/fbgemm and put it on PYTHONPATH
#
# VERSION 1.6.0 goes with torch 2.11, PYTHON is 3.12. The wheel is 465 MB of libraries of three architectures, of 2.4 GB
# unpacked; ARCH 90 (the default: H100, H200) fills the machine code of the others with zeros, in place, and a
# compressor with a long window does the rest. ARCH `all` leaves the libraries as they are. The folders of the
# parts are ignored by git and named in what a call carries. `join` is sourced, so that PYTHONPATH stays; where all is
# unpacked already it only sets that.

fbgemm_parts=/tmp/fbgemm_parts
fbgemm_site=/tmp/fbgemm

fbgemm_prepare() {
    local version=${1:-1.6.0} python=${2:-3.12} arch=${3:-90} folder=.carry/fbgemm wheel part name sum count k=0
    mkdir -p "$folder/wheel" && rm -rf "$folder"/[0-9][0-9] "$folder/site" "$folder"/part-* || return 1
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d "$folder/wheel" "fbgemm-gpu==$version" || return 1
    wheel=$(ls "$folder/wheel"/fbgemm_gpu-"$version"-*.whl) || return 1
    python3 -m zipfile -e "$wheel" "$folder/site" || return 1
    if [ "$arch" != all ]; then fbgemm_prune "$arch" "$folder/site" || return 1; fi
    tar -C "$folder/site" -c . | xz -T1 --lzma2=preset=1,dict=128MiB > "$folder/wheel.tar.xz" || return 1
    rm -rf "$folder/site"
    sum=$(sha256sum "$folder/wheel.tar.xz" | cut -d' ' -f1)
    split -b 56M -d -a 2 "$folder/wheel.tar.xz" "$folder/part-" && rm "$folder/wheel.tar.xz" || return 1
    count=$(ls "$folder" | grep -c '^part-')
    for part in "$folder"/part-*; do
        name=$(printf '%s/%02d' "$folder" "$k")
        mkdir -p "$name" && mv "$part" "$name/" || return 1
        printf '%s %s\n' "$count" "$sum" > "$name/parts.txt"  # in every part: how many there are, and their sum
        k=$((k + 1))
    done
    du -sh "$folder"/[0-9][0-9]
}

# Zeros in place of the machine code of other architectures. A fat binary is a header (magic, version 1, header size 16,
# size of all) and entries (kind, version, header size, size of the code; architecture at byte 28); a driver takes
# the entry of its architecture and reads no other.
fbgemm_prune() {
    python3 - "$1" "$2" <<'PYTHON'
import mmap, struct, sys
from pathlib import Path

keep, dropped = int(sys.argv[1]), 0
for path in sorted(Path(sys.argv[2]).rglob("*.so")):
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at = 0
        while (at := data.find(b"\x50\xed\x55\xba", at)) >= 0:
            version, header, size = struct.unpack("<HHQ", data[at + 4 : at + 16])
            if version != 1 or header != 16 or at + header + size > len(data):
                at += 4
                continue
            entry, end = at + header, at + header + size
            spans, found = [], False
            while entry < end:
                _, _, length, code = struct.unpack("<HHIQ", data[entry : entry + 16])
                (arch,) = struct.unpack("<I", data[entry + 28 : entry + 32])
                found |= arch == keep
                if arch != keep:
                    spans.append((entry + length, code))
                entry += length + code
            if found:  # code that exists for other architectures only stays: another kind of fallback may need it
                for start, code in spans:
                    data[start : start + code] = bytes(code)
                    dropped += code
            at = end
print(f"{dropped / 2**20:.0f} MiB of other architectures zeroed")
PYTHON
}

fbgemm_keep() {
    local folder
    mkdir -p "$fbgemm_parts" || return 1
    for folder in "$@"; do
        cp "$folder"/part-* "$folder"/parts.txt "$fbgemm_parts/" || return 1
    done
    echo "$(ls "$fbgemm_parts" | grep -c '^part-') of $(cut -d' ' -f1 "$fbgemm_parts/parts.txt") parts here"
}

fbgemm_join() {
    local count sum found
    if [ ! -e "$fbgemm_site/.complete" ]; then
        read -r count sum < "$fbgemm_parts/parts.txt" || { echo "no parts in $fbgemm_parts" >&2; return 1; }
        found=$(ls "$fbgemm_parts" | grep '^part-' | tr '\n' ' ')
        if [ "$(echo "$found" | wc -w)" != "$count" ]; then
            echo "expected $count parts in $fbgemm_parts, found: $found" >&2
            return 1
        fi
        if [ "$(cat "$fbgemm_parts"/part-* | sha256sum | cut -d' ' -f1)" != "$sum" ]; then
            echo "the joined parts are not what was cut" >&2
            return 1
        fi
        mkdir -p "$fbgemm_site" || return 1
        cat "$fbgemm_parts"/part-* | python3 -c "
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|xz') as archive:
    archive.extractall('$fbgemm_site', filter='data')
" || return 1
        touch "$fbgemm_site/.complete"
    fi
    export PYTHONPATH="$fbgemm_site${PYTHONPATH:+:$PYTHONPATH}"
}

case "${1:-}" in
    prepare) shift; fbgemm_prepare "$@" ;;
    keep) shift; fbgemm_keep "$@" ;;
    join) fbgemm_join ;;
    *) echo "usage: benchmarks/gpu_wheel.sh prepare [VERSION] [PYTHON] [ARCH] | keep FOLDER... | join (sourced)" >&2; false ;;
esac
