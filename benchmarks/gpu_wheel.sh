#!/usr/bin/env bash
# FBGEMM's CUDA wheel for a machine that can fetch nothing and takes 64 MiB a call.
#
#   benchmarks/gpu_wheel.sh prepare [VERSION] [PYTHON]   here: cut the wheel into .carry/fbgemm/00, 01, ... (56 MiB each)
#   benchmarks/gpu_wheel.sh keep .carry/fbgemm/00 ...    there: copy the parts that a call carried to /tmp
#   . benchmarks/gpu_wheel.sh join                       there: once all parts are kept, check their sum, unpack the
#                                                        wheel to /tmp/fbgemm and put it on PYTHONPATH
#
# VERSION 1.6.0 goes with torch 2.11, PYTHON is 3.12: 465 MB, 8 parts, 2.4 GB unpacked. The folders of the parts are
# ignored by git and named in what a call carries; a call carries one. `join` is sourced, so that PYTHONPATH stays;
# where all is unpacked already it only sets that. The wheel asks for numpy and finds torch where the machine has it.

fbgemm_parts=/tmp/fbgemm_parts
fbgemm_site=/tmp/fbgemm

fbgemm_prepare() {
    local version=${1:-1.6.0} python=${2:-3.12} folder=.carry/fbgemm wheel part name sum count k=0
    mkdir -p "$folder/wheel" && rm -rf "$folder"/[0-9][0-9] "$folder"/part-* || return 1
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d "$folder/wheel" "fbgemm-gpu==$version" || return 1
    wheel=$(ls "$folder/wheel"/fbgemm_gpu-"$version"-*.whl) || return 1
    sum=$(sha256sum "$wheel" | cut -d' ' -f1)
    split -b 56M -d -a 2 "$wheel" "$folder/part-" || return 1
    count=$(ls "$folder" | grep -c '^part-')
    for part in "$folder"/part-*; do
        name=$(printf '%s/%02d' "$folder" "$k")
        mkdir -p "$name" && mv "$part" "$name/" || return 1
        printf '%s %s\n' "$count" "$sum" > "$name/parts.txt"  # in every part: how many there are, and their sum
        k=$((k + 1))
    done
    du -sh "$folder"/[0-9][0-9]
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
        cat "$fbgemm_parts"/part-* > "$fbgemm_parts/wheel.zip" || return 1
        if [ "$(sha256sum "$fbgemm_parts/wheel.zip" | cut -d' ' -f1)" != "$sum" ]; then
            echo "the joined parts are not what was cut" >&2
            return 1
        fi
        python3 -m zipfile -e "$fbgemm_parts/wheel.zip" "$fbgemm_site" || return 1
        rm "$fbgemm_parts/wheel.zip"
        touch "$fbgemm_site/.complete"
    fi
    export PYTHONPATH="$fbgemm_site${PYTHONPATH:+:$PYTHONPATH}"
}

case "${1:-}" in
    prepare) shift; fbgemm_prepare "$@" ;;
    keep) shift; fbgemm_keep "$@" ;;
    join) fbgemm_join ;;
    *) echo "usage: benchmarks/gpu_wheel.sh prepare [VERSION] [PYTHON] | keep FOLDER... | join (sourced)" >&2; false ;;
esac
