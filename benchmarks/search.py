"""Searching: the exact nearest rows of one query and of many, by every metric, and the memory it takes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from harness import Bench, Work, forget_peak, main, peer, resident, sgemm_seconds, sum_seconds
from torch import Tensor

from memreplay.core.retrievers import Nearest
from memreplay.core.selection import Pool
from memreplay.core.stores import Store

DIM, K = 384, 10
METRICS = {"dot": "IndexFlatIP", "cosine": "IndexFlatIP", "euclidean": "IndexFlatL2"}
MUST = {1: 0.85, 64: 3.5, 1024: 0.9}


def vectors(n: int, device: str = "cpu", seed: int = 0) -> Tensor:
    """Numbers from a normal distribution, (n, DIM)."""
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)).to(device)


def flat(rows: Tensor, queries: Tensor, metric: str) -> Work | None:
    """The same search by faiss on one thread, or None where it is not installed; for the cosine of unit vectors."""
    faiss = peer("faiss")
    if faiss is None:
        return None
    faiss.omp_set_num_threads(1)
    if metric == "cosine":
        rows, queries = (torch.nn.functional.normalize(x) for x in (rows, queries))
    index = getattr(faiss, METRICS[metric])(DIM)
    index.add(rows.numpy())
    asked = queries.numpy()
    return lambda: index.search(asked, K)


def measure(bench: Bench) -> None:
    n = 10_000 if bench.quick else 100_000
    on_cpu = bench.device == "cpu"
    rows = vectors(n, bench.device)
    store = Store(n, device=bench.device)
    store.add({"feature": rows})
    first = store.rows([0])
    for metric in METRICS:
        by = Nearest("feature", metric)  # type: ignore[arg-type]
        for q in MUST:
            queries = vectors(q, bench.device, seed=1)
            query = {"feature": queries}
            peers = {"faiss": (flat(rows, queries, metric), MUST[q])} if on_cpu else {}
            bound = sum_seconds(rows.nbytes) if q == 1 else sgemm_seconds(2 * q * rows.numel())
            limit = bound if on_cpu else None
            name = f"search {q:,} of {n:,} x {DIM}, {metric}"
            work: Work = lambda by=by, query=query: store.search(query, K, by)  # noqa: E731
            if q == 1:

                def changed(work: Work = work) -> None:
                    store.update(first, feature=first["feature"])
                    work()

                bench.compare(f"{name}, rows just changed", changed, peers, calls=10, limit=limit)
                name += ", rows unchanged"
            bench.compare(name, work, peers, calls=20 if q == 1 else 1, rounds=9 if q == 1 else 5, limit=limit)
    if on_cpu and not Path("/proc/self/clear_refs").exists():
        return
    sizes = [(q, k) for q in (1, 64, 1024, 20_000) for k in (1, 10, 1000)]
    for q, k in sizes[:-3] if bench.quick else sizes:
        bench.note(
            f"search {q:,} of {n:,}, top {k:,}: {temporary(bench.device, n, q, k) / 1e6:.1f} MB beside the result"
        )


def temporary(device: str, n: int, q: int, k: int) -> int:
    """Bytes a search needs for a while beside rows, queries and result."""
    query, pool = {"feature": vectors(q, device)}, Pool({"feature": vectors(n, device)})
    Nearest().search(pool, {"feature": query["feature"][:2]}, 1)  # loads what is loaded once
    if device == "cpu":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # memory that was freed before but is kept at hand would hide what is needed now
        forget_peak()
        before = resident()
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    result = Nearest().search(pool, query, k)
    peak = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return max(0, peak - before - sum(part.nbytes for part in result))


if __name__ == "__main__":
    main(measure)
