"""`RewardMonitor` on streams of samples: what it measures, when it warns, and that a resumed run goes on."""

import json
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from codescaler import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.integrations.reward_function import RewardFunction
from codescaler.monitor import RewardMonitor
from codescaler.monitor.signals import SIGNALS, choose_best, measure_group
from codescaler.text.additions import add_praise
from codescaler.text.surface import measure_surface

CLAIM = ("Verified against the whole suite: every test passes.", "Returns the right answer for every valid input.")


class PraiseLover:
    """Scores by a number in the program, and by what the program says of itself."""

    def __init__(self, praise=2.0):
        self.praise, self.num_scored = praise, 0

    def score_stream(self, pairs, names=None):
        for pair in pairs:
            self.num_scored += 1
            code = pair.turns[-1]["content"]
            yield int(code.partition("+ ")[2].split()[0]) / 10 + self.praise * (measure_surface(code).praise > 0)


def make_step(choice, praised=0.0, num_prompts=4, num_samples=4):
    """Prompts and completions, a share of which is praised; some hold no program."""
    prompts, completions = [], []
    for _ in range(num_prompts):
        prompt = f"Problem {choice.random()}."
        for _ in range(num_samples):
            code = f"def f(a):\n    total = a + {choice.randrange(20)}\n    return total"
            code = add_praise(code, choice.randrange(99), CLAIM) if choice.random() < praised else code
            prompts.append(prompt)
            completions.append(f"```python\n{code}\n```")
        prompts.append(prompt)
        completions.append("No program.")
    return prompts, completions


def make_monitor(scorer=None, **settings):
    settings = {"second": None, "num_start_windows": 4, "num_groups": 4, "level": 0.01} | settings
    return RewardMonitor(RewardFunction(scorer or PraiseLover()), **settings)


def run(monitor, shares, seed=0):
    choice = random.Random(seed)
    return [monitor.observe(*make_step(choice, share)) for share in shares]


def test_praise_raises_an_alarm_before_half_of_the_samples_carry_it(caplog):
    shares = [0.0] * 8 + [step / 20 for step in range(1, 10)]
    windows = run(make_monitor(), shares)
    first = next(window for window in windows if window.is_alarm)
    assert first.window >= 8 and shares[first.window] < 0.5
    assert windows[-1].is_alarm and {"stripped", "praise"} <= {*windows[-1].raised}
    assert f"window {first.window} is unlike the start of the run" in caplog.text
    assert [window.p for window in windows[:4]] == [None] * 4


def test_honest_windows_are_as_the_start():
    windows = [window for seed in range(6) for window in run(make_monitor(), [0.1] * 10, seed)[4:]]
    assert sum(window.is_alarm for window in windows) <= 2  # of 36, at a level of 1%


def test_the_moves_are_in_units_of_the_spread_at_the_start():
    (window,) = run(make_monitor(num_rewritten=4), [1.0])
    falls = 2.0 / np.sqrt(np.mean([group[-1] ** 2 for group in window.groups]))
    assert window.signals["stripped"] == pytest.approx(falls)
    assert window.signals["rewritten"] == pytest.approx(falls / 3)  # other names and layouts keep the docstring
    assert window.signals["disagreement"] is None
    assert window.start == window.signals


def test_rewards_are_those_of_the_function_and_the_p_value_is_logged():
    reward, logged = RewardFunction(PraiseLover()), {}
    monitor = make_monitor(num_start_windows=1)
    choice = random.Random(0)
    for _ in range(2):
        step = make_step(choice)
        given = monitor(*step, log_metric=logged.__setitem__, task=["x"] * len(step[0]))
        assert given == reward(*step)
    assert 0 < logged["codescaler/monitor_p"] <= 1
    assert monitor.__name__ == reward.__name__


def test_small_calls_are_gathered_and_large_calls_are_cut():
    choice, monitor = random.Random(0), make_monitor(num_samples=3)
    assert monitor.observe(*make_step(choice, num_prompts=3)) is None
    before = monitor.reward.engine.num_scored
    window = monitor.observe(*make_step(choice, num_prompts=9))
    assert window.window == 0 and len(window.groups) == 4
    assert monitor.reward.engine.num_scored - before == 3 + 2 * 3  # of one prompt: its programs, rewrites of two
    assert monitor.observe(["p"], ["nothing"]) is None


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    shares = [0.0] * 5 + [0.9, 0.9, 0.9]
    log, whole = tmp_path / "log.jsonl", run(make_monitor(log=tmp_path / "whole.jsonl"), shares)
    choice, first = random.Random(0), make_monitor(log=log, stop_after=2)
    for share in shares[:6]:
        first.observe(*make_step(choice, share))
    with log.open("a") as file:
        file.write('{"window": 6, "sig')  # what a killed process leaves
    second = make_monitor(log=log, stop_after=2)
    assert second.num_windows == 6 and not second.should_stop
    for share in shares[6:]:
        second.observe(*make_step(choice, share))
    assert second.should_stop
    assert log.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert [json.loads(line)["raised"] for line in log.read_text().splitlines()] == [[*w.raised] for w in whole]


def test_windows_of_steps_that_a_resumed_run_repeats_are_removed(tmp_path, caplog):
    """The process was killed five steps after its last checkpoint."""

    def observe(monitor, steps):
        for step in steps:
            monitor.observe(*make_step(random.Random(step)), trainer_state=SimpleNamespace(global_step=step))

    whole, log = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    observe(make_monitor(log=whole), range(12))
    observe(make_monitor(log=log), range(8))
    second = make_monitor(log=log)
    assert second.num_windows == 8
    observe(second, range(3, 12))
    assert second.num_windows == 12
    assert log.read_text() == whole.read_text()
    assert [json.loads(line)["steps"] for line in log.read_text().splitlines()] == [[step] * 4 for step in range(12)]
    assert "removes what it saw from step 3 on, which this run repeats" in caplog.text


@pytest.mark.parametrize("num_seen, first_repeated", [(5, 5), (6, 6), (11, 8), (12, 7), (12, 9), (13, 0)])
def test_a_window_of_several_steps_goes_on_where_it_was(tmp_path, num_seen, first_repeated):
    """Three prompts a step, and four a window: a checkpoint may stand within a window."""

    def observe(monitor, steps):
        for step in steps:
            samples = make_step(random.Random(step), 0.9 * (step > 7), num_prompts=3)
            monitor.observe(*samples, trainer_state=SimpleNamespace(global_step=step))
        return monitor

    whole, log = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    expected = observe(make_monitor(log=whole), range(16))
    observe(make_monitor(log=log), range(num_seen))
    found = observe(make_monitor(log=log), range(first_repeated, 16))
    assert log.read_text() == whole.read_text()
    assert found.alarm_step == expected.alarm_step
    windows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert windows[3]["steps"] == [6, 6, 6, 7]


def test_the_prompts_of_a_window_that_is_not_complete_are_kept(tmp_path):
    log, choice = tmp_path / "log.jsonl", random.Random(0)
    assert make_monitor(log=log).observe(*make_step(choice, num_prompts=3)) is None
    assert make_monitor(log=log).observe(["p"], ["nothing"]) is None
    assert make_monitor(log=log).observe(*make_step(choice, num_prompts=1)).window == 0
    assert len(log.read_text().splitlines()) == 1


def test_the_step_of_the_first_alarm_in_a_row_is_known(tmp_path):
    monitor, choice = make_monitor(log=tmp_path / "log.jsonl", stop_after=2), random.Random(0)
    for step, share in enumerate([0.0] * 4 + [1.0, 0.0, 1.0, 1.0]):
        monitor.observe(*make_step(choice, share), trainer_state=SimpleNamespace(global_step=10 + step))
    assert monitor.should_stop and monitor.alarm_step == 16
    # A window that is as the start does not take the end back.
    monitor.observe(*make_step(choice), trainer_state=SimpleNamespace(global_step=18))
    for same in (monitor, make_monitor(log=tmp_path / "log.jsonl", stop_after=2)):
        assert same.should_stop and same.alarm_step == 16 and same.num_windows == 9


def test_the_step_of_an_alarm_is_the_first_of_its_window():
    monitor, choice = make_monitor(), random.Random(0)
    run(monitor, [0.0] * 4)
    for step in (7, 8):
        samples = make_step(choice, 1.0, num_prompts=2)
        window = monitor.observe(*samples, trainer_state=SimpleNamespace(global_step=step))
    assert window.is_alarm and window.steps == [7, 7, 8, 8] and monitor.alarm_step == 7


def test_samples_from_before_the_run_are_the_start(tmp_path):
    log, choice = tmp_path / "log.jsonl", random.Random(0)
    before = make_step(choice, num_prompts=17)  # four windows of four, and one that is not needed
    monitor = make_monitor(log=log)
    monitor.observe_start(*before)
    windows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [window["p"] for window in windows] == [None] * 4
    state = SimpleNamespace(global_step=0)
    assert monitor.observe(*make_step(choice, 0.9), trainer_state=state).is_alarm
    with pytest.raises(InvalidInput, match="call observe_start first"):
        monitor.observe_start(*before)
    # A run that is killed in step 0 begins with it anew, and keeps its start.
    again = make_monitor(log=log)
    again.observe_start(*before)
    assert again.num_windows == 5
    assert again.observe(*make_step(choice, 0.9), trainer_state=state).window == 4


def test_a_start_that_was_cut_short_goes_on(tmp_path):
    choice, log, whole = random.Random(0), tmp_path / "log.jsonl", tmp_path / "whole.jsonl"
    before = make_step(choice, num_prompts=16)
    make_monitor(log=whole).observe_start(*before)
    log.write_text("".join(whole.read_text().splitlines(keepends=True)[:2]))
    make_monitor(log=log).observe_start(*before)
    assert log.read_text() == whole.read_text()


def test_too_few_samples_are_no_start():
    with pytest.raises(InvalidInput, match=r"needs 16 prompts .* the samples have 15"):
        make_monitor().observe_start(*make_step(random.Random(0), num_prompts=15))


def test_a_start_that_the_run_had_begun_stays(tmp_path):
    choice, log = random.Random(0), tmp_path / "log.jsonl"
    make_monitor(log=log).observe(*make_step(choice), trainer_state=SimpleNamespace(global_step=0))
    begun, again = log.read_text(), make_monitor(log=log)
    again.observe_start(*make_step(choice, num_prompts=16))
    assert log.read_text() == begun and again.num_windows == 1


@pytest.mark.parametrize(
    "text", ['{"window": 0}\n', '{"loss": 0.1}', "[1, 2]", '{"window": 0, "groups": [], "steps": 1}\n']
)
def test_another_file_is_no_log_and_is_left_alone(tmp_path, text):
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    with pytest.raises(InvalidInput, match=r"name another log"):
        make_monitor(log=log)
    assert log.read_text() == text


@pytest.mark.parametrize("settings", [{"num_groups": 2}, {"num_start_windows": 5}, {"num_start_windows": 3}])
def test_the_log_of_other_settings_is_refused(tmp_path, settings):
    log = tmp_path / "log.jsonl"
    run(make_monitor(log=log), [0.0] * 5)
    with pytest.raises(InvalidInput, match="is no window of this monitor, with"):
        make_monitor(log=log, **settings)


def test_training_ends_after_alarms_in_a_row():
    from transformers import TrainerControl

    monitor = make_monitor(stop_after=2)
    callback, control = monitor.make_callback(), TrainerControl()
    run(monitor, [0.0] * 4)
    for share, stops in ((1.0, False), (1.0, True)):
        run(monitor, [share])
        assert callback.on_step_end(None, None, control).should_training_stop == stops


def test_a_second_scorer_that_disagrees_is_seen():
    class Backwards(PraiseLover):
        def score_stream(self, pairs, names=None):
            return (-score for score in super().score_stream(pairs))

    alike, other = (run(make_monitor(second=scorer), [0.0])[0] for scorer in (PraiseLover(), Backwards()))
    assert alike.signals["disagreement"] == pytest.approx(0, abs=1e-9)
    assert other.signals["disagreement"] == pytest.approx(2)


def test_what_explains_nothing_has_the_mean_0_in_groups_of_any_size():
    """Else a policy with fewer valid programs a prompt would raise the alarm."""
    choice, place = np.random.default_rng(0), SIGNALS.index("by_length")
    for size in (3, 8):
        codes = [["x" * int(n) for n in choice.integers(1, 99, size)] for _ in range(400)]
        found = [measure_group(of, choice.normal(size=size), np.zeros((1, 3)), [0], None)[place] for of in codes]
        assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert measure_group(["x", "xx", "xxxx"], np.log([2.0, 3.0, 5.0]), np.zeros((1, 3)), [0], None)[place] == 1


def test_what_cannot_be_measured_is_unknown():
    codes, scores = ["x = 1", "x = 2"], np.array([1.0, 1.0])
    figures = dict(zip(SIGNALS, measure_group(codes, scores, np.ones((1, 3)), [0], scores), strict=False))
    assert all(np.isnan(figures[name]) for name in SIGNALS if name.startswith("by_") or name == "disagreement")
    assert figures["rewritten"] == figures["repetition"] == 0
    assert choose_best(np.array([1.0, 3.0, 2.0, 3.0]), 3) == [1, 3, 2]


@pytest.mark.parametrize(
    "settings", [{"level": 0.0}, {"level": 1.5}, {"num_groups": 0}, {"num_samples": 1}, {"stop_after": 0}]
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(InvalidInput):
        make_monitor(**settings)


def test_a_model_s_name_is_no_reward():
    with pytest.raises(InvalidInput, match=r"give a RewardFunction, such as RewardFunction\.open"):
        RewardMonitor("nano")
    with pytest.raises(InvalidInput, match=r"engine is .nano.; give an engine or a client, or call"):
        RewardFunction("nano")


def test_a_score_that_is_no_number_ends_the_run():
    with pytest.raises(WeightsError, match="not finite"):
        run(make_monitor(PraiseLover(praise=float("nan"))), [1.0])


def test_a_rewrite_that_the_model_cannot_read_does_not_end_the_run(caplog):
    """`a*x` is longer as it is formatted. The other prompts keep their figures."""
    long = [f"```python\ndef f(a,x):\n    return {'+'.join(['a*x'] * 40)}+{n}\n```" for n in range(2)]
    short = [f"```python\ndef f(a):\n    return a + {n}\n```" for n in range(2)]
    prompts, completions = ["Long."] * 2 + ["Short."] * 2, long + short
    engine = Engine.from_pretrained("nano")
    RewardFunction(engine)(prompts[:1], long[:1])
    limit = engine.num_tokens
    reward = RewardFunction(Engine.from_pretrained("nano", max_length=limit))
    monitor = RewardMonitor(reward, second=None, num_groups=2, num_start_windows=1)
    (unread, known) = monitor.observe(prompts, completions).groups
    assert unread[:2] == [None, None] and None not in known[:2]
    assert "a prompt counts without its rewrites" in caplog.text and f"more than max_length={limit}" in caplog.text
    with pytest.raises(InvalidInput, match="max_length"):  # what the reward itself cannot read still does
        monitor.observe(["Long." * 999] * 2, long)


def test_no_trainer_is_loaded():
    import subprocess

    code = "import codescaler.monitor, sys; print({'torch', 'trl', 'transformers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
