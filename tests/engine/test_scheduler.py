"""One queue for all callers. A test that needs a forward under way holds the worker by an event, never by time."""

import asyncio
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
import pytest

from codescaler.engine import Engine, worker
from codescaler.engine.scheduler import Request, Scheduler, select_oldest
from codescaler.errors import DeadlineExceeded, InvalidInput
from codescaler.ops.plan import plan
from codescaler.testing import save_chat, save_random_checkpoint

PROBLEM = "Write a function that adds two numbers, however large they are. " * 8
PAIRS = [(PROBLEM, f"def add(a, b):\n    return a + b + {i}") for i in range(16)]
LONG = 60  # seconds that no test should take: what is held to it does not depend on the machine's speed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scheduler")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299, max_position_embeddings=2048)
    save_chat(path)
    return path


@pytest.fixture
def engine(folder):
    engine = Engine.from_pretrained(folder, prefix_memory_bytes=0)  # what is counted is one forward's sharing
    engine.score(PAIRS[:1])
    return engine


@contextmanager
def held_worker():
    """As if a forward were under way until the block ends."""
    started, may_end = threading.Event(), threading.Event()
    job = worker.submit(1, lambda: (started.set(), may_end.wait(LONG)))
    assert started.wait(LONG)
    try:
        yield
    finally:
        may_end.set()
        job.result()


def until(condition):
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def ids(*tokens):
    return np.array(tokens, dtype=np.int32)


def tokens_of(engine, call):
    before = engine.num_distinct_tokens
    result = call()
    return engine.num_distinct_tokens - before, result


def score_in_threads(engine, pairs):
    """Each pair by a call of its own on a thread of its own, all of them while a forward runs."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        with held_worker():
            calls = [pool.submit(engine.score, [pair]) for pair in pairs]
            until(lambda: len(engine.scheduler) == len(pairs))
        return np.concatenate([call.result() for call in calls])


async def score_in_tasks(engine, pairs):
    with held_worker():
        tasks = [asyncio.create_task(engine.score_async([pair])) for pair in pairs]
        while len(engine.scheduler) < len(pairs):
            await asyncio.sleep(0.001)
    return np.concatenate(await asyncio.gather(*tasks))


def score_by_futures(engine, pairs):
    with held_worker():
        futures = [engine.submit([pair]) for pair in pairs]
    return np.concatenate([future.result() for future in futures])


CALLERS = {
    "threads": score_in_threads,
    "asyncio": lambda engine, pairs: asyncio.run(score_in_tasks(engine, pairs)),
    "futures": score_by_futures,
}


@pytest.mark.parametrize("call", CALLERS.values(), ids=CALLERS)
def test_callers_at_the_same_time_share_a_forward(engine, call):
    num_tokens, expected = tokens_of(engine, lambda: engine.score(PAIRS))
    shared, scores = tokens_of(engine, lambda: call(engine, PAIRS))
    assert shared == num_tokens
    assert scores.tobytes() == expected.tobytes()


@pytest.mark.parametrize("call", ["threads", "asyncio"])
def test_an_idle_engine_waits_for_callers_that_are_encoding(engine, call, monkeypatch):
    """No forward is under way: the first of them must not start alone while the others encode."""
    expected = engine.score(PAIRS)
    num_tokens, _ = tokens_of(engine, lambda: engine.score(PAIRS))
    all_are_in = threading.Barrier(4, timeout=LONG)
    encode = type(engine._intake._encoder).encode_pairs

    def encode_together(self, *arguments):
        all_are_in.wait()
        return encode(self, *arguments)

    monkeypatch.setattr(type(engine._intake._encoder), "encode_pairs", encode_together)
    engine.scheduler.arrival_s = LONG

    async def gather():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
        return await asyncio.gather(*(engine.score_async(PAIRS[4 * i : 4 * i + 4]) for i in range(4)))

    if call == "asyncio":
        shared, scores = tokens_of(engine, lambda: asyncio.run(gather()))
    else:
        with ThreadPoolExecutor(4) as pool:
            quarters = [PAIRS[4 * i : 4 * i + 4] for i in range(4)]
            shared, scores = tokens_of(engine, lambda: list(pool.map(engine.score, quarters)))
    assert shared == num_tokens
    assert np.concatenate(scores).tobytes() == expected.tobytes()


def test_tasks_that_start_together_share_a_forward(engine):
    engine.scheduler.arrival_s = LONG

    async def gather():
        return await asyncio.gather(*(engine.score_async([pair]) for pair in PAIRS))

    num_tokens, expected = tokens_of(engine, lambda: engine.score(PAIRS))
    shared, scores = tokens_of(engine, lambda: asyncio.run(gather()))
    assert shared == num_tokens
    assert np.concatenate(scores).tobytes() == expected.tobytes()


def test_a_lone_caller_waits_for_nobody(engine):
    engine.scheduler.arrival_s = LONG
    engine.score(PAIRS[:1])  # the thread that made the engine, and so the call before
    started = time.monotonic()
    for _ in range(3):
        engine.score(PAIRS[:1])
    assert time.monotonic() - started < LONG / 2


def test_a_stream_reads_ahead_and_does_not_wait_for_itself(engine, monkeypatch):
    monkeypatch.setattr("codescaler.engine.intake.TEXT_WINDOW", 2)
    engine.scheduler.arrival_s = LONG
    read = []
    with held_worker():
        stream = engine.score_stream(read.append(i) or pair for i, pair in enumerate(PAIRS))
        consumer = ThreadPoolExecutor(1).submit(lambda: [next(stream), list(read)])
        until(lambda: len(engine.scheduler) == 2)
    first, read_by_then = consumer.result()
    assert read_by_then == [0, 1, 2, 3]
    assert [first, *stream] == engine.score(PAIRS).tolist()


def test_64_callers_with_problems_of_their_own(engine):
    pairs = [(f"{i}: {PROBLEM}", f"x = {i}") for i in range(64)]
    expected = engine.score(pairs)
    before = engine.num_tokens, engine.num_distinct_tokens
    assert score_in_threads(engine, pairs).tobytes() == expected.tobytes()
    engine.score(pairs)
    # Counters are right though 64 threads came: the second call computes as many tokens, in as few forwards.
    assert engine.num_tokens - before[0] == 2 * sum(len(tokens) for tokens in _ids_of(engine, pairs))
    assert engine.num_distinct_tokens - before[1] <= 2.02 * tokens_of(engine, lambda: engine.score(pairs))[0]


def _ids_of(engine, pairs):
    return engine._intake._encoder.encode_pairs(pairs, [str(i) for i in range(len(pairs))]).sequences


def test_features_and_scores_share_a_forward(engine):
    features, scores = engine.features(PAIRS[:2]), engine.score(PAIRS[2:4])
    num_tokens, _ = tokens_of(engine, lambda: engine.score(PAIRS[:4]))

    def both():
        with ThreadPoolExecutor(2) as pool:
            with held_worker():
                calls = pool.submit(engine.features, PAIRS[:2]), pool.submit(engine.score, PAIRS[2:4])
                until(lambda: len(engine.scheduler) == 2)
            return [call.result().tobytes() for call in calls]

    assert tokens_of(engine, both) == (num_tokens, [features.tobytes(), scores.tobytes()])


def test_a_request_that_waits_can_be_cancelled(engine):
    num_tokens, expected = tokens_of(engine, lambda: engine.score(PAIRS[1:2]))
    with held_worker():
        first, second = engine.submit(PAIRS[:1]), engine.submit(PAIRS[1:2])
        assert first.cancel()
        before = engine.num_distinct_tokens
    assert second.result() == expected
    assert engine.num_distinct_tokens - before == num_tokens
    assert wait([first], timeout=LONG).done == {first}
    with pytest.raises(CancelledError):
        first.result()


def test_a_cancelled_task_takes_its_request_out_of_the_queue(engine):
    async def cancel_one():
        with held_worker():
            tasks = [asyncio.create_task(engine.score_async([pair])) for pair in PAIRS[:2]]
            while len(engine.scheduler) < 2:
                await asyncio.sleep(0.001)
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
        return tasks[0].cancelled(), await tasks[1]

    num_tokens, expected = tokens_of(engine, lambda: engine.score(PAIRS[1:2]))
    assert tokens_of(engine, lambda: asyncio.run(cancel_one())) == (num_tokens, (True, expected))


def test_a_deadline_that_passes_while_a_request_waits(engine):
    with held_worker():
        late = engine.submit(PAIRS[:1], deadline=time.monotonic() - 1e-9)
        in_time = engine.submit(PAIRS[:1], deadline=time.monotonic() + LONG)
    with pytest.raises(DeadlineExceeded, match=r"waited for \d\.\d+ s; give a later one"):
        late.result()
    assert in_time.result() == engine.score(PAIRS[:1])


def test_a_pair_that_is_refused_fails_alone(engine):
    pairs = [*PAIRS[:3], ("a" * 3000, "b")]
    with held_worker():
        futures = [engine.submit([pair]) for pair in pairs[:3]]
        with pytest.raises(InvalidInput, match=r"pairs\[0\] has 30\d\d tokens"):
            engine.submit(pairs[3:])
        with pytest.raises(InvalidInput, match="pairs is a str"):
            engine.submit("ab")
        with pytest.raises(InvalidInput, match=r"pairs\[0\] has 30\d\d tokens"):
            asyncio.run(engine.score_async(pairs[3:]))
    assert np.concatenate([future.result() for future in futures]).tobytes() == engine.score(pairs[:3]).tobytes()
    assert engine.scheduler._num_arriving == 0


def lengths(requests):
    return [np.array([len(s) for s in request.sequences], dtype=np.float32) for request in requests]


def test_a_forward_that_fails_is_tried_again_for_each_request_alone():
    def compute(requests):
        if any(13 in sequence for request in requests for sequence in request.sequences):
            raise ZeroDivisionError("13")
        return lengths(requests)

    scheduler = Scheduler(compute, budget=100, num_threads=1)
    with held_worker():
        futures = [scheduler.put(Request([ids(*tokens)])) for tokens in ((1, 2), (13,), (3,))]
    assert futures[0].result() == 2 and futures[2].result() == 1
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


def test_the_rule_that_picks_is_replaceable():
    turns = []
    scheduler = Scheduler(lambda rs: turns.append([r.client for r in rs]) or lengths(rs), budget=100, num_threads=1)
    scheduler.select = lambda waiting, budget: [r for r in waiting if r.client == max(w.client for w in waiting)]
    with held_worker():
        futures = [scheduler.put(Request([ids(1)], client=client)) for client in ("a", "b", "a", "c")]
    wait(futures)
    assert turns == [["c"], ["b"], ["a", "a"]]
    scheduler.select = lambda waiting, budget: []
    with held_worker():
        futures = [scheduler.put(Request([ids(1)], client=client)) for client in ("a", "b")]
    wait(futures)
    assert turns[3:] == [["a"], ["b"]]
    scheduler.select = lambda waiting, budget: 1 / 0
    with pytest.raises(ZeroDivisionError):
        scheduler.put(Request([ids(1)])).result()
    scheduler.select = select_oldest
    assert scheduler.put(Request([ids(1, 2)])).result() == 2


def requests_of(families):
    """For each letter a request of 80 tokens: 70 of its family, 10 of its own."""
    lists = [ids(*[ord(family)] * 70, *[1000 + index] * 10) for index, family in enumerate(families)]
    return [Request([tokens], client=family) for tokens, family in zip(lists, families, strict=True)]


def test_the_oldest_goes_first_and_its_siblings_go_with_it():
    waiting = requests_of("abacabc")
    for budget, expected in ((80, "a"), (100, "aaa"), (99, "aa"), (10**6, "abacabc"), (179, "aaa"), (190, "aaabb")):
        assert "".join(r.client for r in select_oldest(waiting, budget)) == expected
    assert select_oldest(waiting[:1], 10) == waiting[:1], "the oldest goes though it is above the budget"


def test_what_is_picked_is_one_forward():
    random = np.random.default_rng(0)
    lists = [[random.integers(0, 3, n).astype(np.int32) for n in random.integers(1, 9, 5)] for _ in range(40)]
    waiting = [Request(sequences) for sequences in lists]
    (batch,) = plan([sequence for sequences in lists for sequence in sequences], 10**6)
    assert len(select_oldest(waiting, batch.num_tokens)) == 40
    assert len(select_oldest(waiting, batch.num_tokens - 1)) < 40
    for budget in (30, 50, 100, 150):
        chosen = select_oldest(waiting, budget)
        (batch,) = plan([sequence for request in chosen for sequence in request.sequences], 10**6)
        assert batch.num_tokens <= budget


def test_nobody_starves():
    """However many siblings of the oldest keep coming, the next oldest is in the next turn."""
    waiting = requests_of("abaaaaaa")
    first = select_oldest(waiting, 100)
    assert [r.client for r in first] == ["a", "a", "a"]
    waiting = [r for r in waiting if r not in first] + requests_of("aaaa")
    assert select_oldest(waiting, 100)[0].client == "b"


def test_memory_of_scores_does_not_grow_with_the_width_of_features(tmp_path, monkeypatch):
    width, num_lists = 1024, 20_000
    save_random_checkpoint(tmp_path, "qwen3", vocab_size=300, hidden_size=width, num_hidden_layers=1)
    engine = Engine.from_pretrained(tmp_path, max_batch_tokens=256)
    lists = np.random.default_rng(0).integers(0, 30, (num_lists, 2))
    forward, alive = type(engine._decoder).forward, []

    def watched(self, tree):
        assert all(features() is None for features in alive), "features of a batch before are still held"
        features, scores = forward(self, tree)
        alive.append(weakref.ref(features))
        return features, scores

    monkeypatch.setattr(type(engine._decoder), "forward", watched)
    tracemalloc.start()
    try:
        scores = engine.score_tokens(lists)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scores.shape == (num_lists,) and np.isfinite(scores).all() and len(alive) > 3
    assert peak < num_lists * 4 * width / 4, f"{peak / 1e6:.0f} MB, where features alone would take 82 MB"


EXIT = """
import sys, threading, time
from codescaler.engine import Engine, worker
engine = Engine.from_pretrained(sys.argv[1])
started = threading.Event()
worker.submit(1, lambda: (started.set(), time.sleep(0.2)))  # a forward that outlives the main thread
started.wait()
futures = [engine.submit([("a", f"x = {i}")]) for i in range(64)]
engine.scheduler.select = lambda waiting, budget: waiting[:1]
threading.Thread(target=lambda: print(*[type(f.exception()).__name__ for f in futures])).start()
"""


def test_the_interpreter_exits_though_work_is_queued(folder):
    """The turn that is queued ends, what waits behind it fails, and whoever waits for it is told."""
    run = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", EXIT, str(folder)],
        capture_output=True, text=True, timeout=LONG, check=True,
    )  # fmt: skip
    outcomes = run.stdout.split()
    assert len(outcomes) == 64 and set(outcomes) == {"NoneType", "RuntimeError"}


FORK = """
import os, sys, threading
from codescaler.engine import Engine, worker
engine = Engine.from_pretrained(sys.argv[1])
expected = engine.score([("a", "x = 1")])
started, may_end = threading.Event(), threading.Event()
worker.submit(1, lambda: (started.set(), may_end.wait()))
started.wait()
future = engine.submit([("a", "x = 1")])
engine.scheduler.announce()  # a thread that is encoding, and is not in the child
child = os.fork()
if child == 0:
    engine.scheduler.arrival_s = 3600
    os._exit(0 if len(engine.scheduler) == 0 and engine.score([("a", "x = 1")]) == expected else 1)
status = os.waitpid(child, 0)[1]
engine.scheduler.withdraw()
may_end.set()
assert future.result() == expected
sys.exit(status)
"""


def test_a_fork_while_requests_wait(folder):
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", FORK, str(folder)], check=True, timeout=2 * LONG)
