#!/usr/bin/env bash
# Build the wheel, install it alone into a clean environment outside the repository, and use it as a stranger would.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$root/.venv/bin/python" -m build --wheel --no-isolation --outdir "$work/dist" "$root" >"$work/build.log" ||
    { cat "$work/build.log"; exit 1; }
PYTHON="$root/.venv/bin/python" bash "$root/.ci/venv.sh" "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$work"/dist/*.whl

cd "$work" # nothing of the repository is importable from here
venv/bin/python -I - <<'PY'
import importlib
import importlib.util

for name in ("solvers", "surco", "problems", "rl"):
    where = importlib.import_module(name).__file__
    assert "site-packages" in where, f"{name} came from {where}, not from the wheel"
for name in ("tests", "benchmarks"):
    assert importlib.util.find_spec(name) is None, f"the wheel must not install a top-level `{name}`"
PY
venv/bin/surco list paths/ >list.txt
grep -q '^paths/' list.txt || { echo "surco list shows no paths/ id:"; cat list.txt; exit 1; }

solve() { # METHOD: solve under 20 oracle calls, and check the JSON line
    venv/bin/surco solve paths/grid-5-code-v0 --method "$1" --calls 20 --seed 0 --out "run-$1" --json >"$1.txt"
    tail -n 1 "$1.txt" | venv/bin/python -I -c '
import json, math, sys

row = json.loads(sys.stdin.read())
keys = "id method value bound gap is_feasible status oracle_calls objective_calls seconds cpu_seconds seed".split()
assert not (missing := [key for key in keys if key not in row]), f"missing {missing}"
assert row["is_feasible"] is True and math.isfinite(row["value"]), row
assert 0 <= row["oracle_calls"] <= 22, row  # the budget of 20 is respected within 10 percent
assert row["method"] == sys.argv[1] and row["seed"] == 0, row
print("wheel smoke:", {key: row[key] for key in keys})
' "$1"
    test -s "run-$1/result.json" && test -s "run-$1/report.html"
}
solve random
solve auto
venv/bin/surco check paths/grid-5-code-v0 >/dev/null
