"""The comparison of chat templates finds a difference where there is one."""

import pytest

from benches.quality import templates
from codescaler.text.chat import Chat
from codescaler.text.control_tokens import ControlTokens


def test_the_templates_of_the_tests_are_equal(tmp_path):
    outcomes = templates.compare_folder(templates.OWN)
    assert len(outcomes) >= 6
    counts = templates.count_outcomes(outcomes)
    assert {"no system", "system, control tokens as text"} <= counts.keys()
    assert all(set(of) <= {"equal", "both refuse"} and of["equal"] >= len(outcomes) - 1 for of in counts.values())


@pytest.mark.parametrize(
    "kind, name, wrong",
    [
        (Chat, "render", lambda self, messages: messages[-1]["content"]),
        (Chat, "_add_bos", lambda self, ids: ids[1:]),
        (ControlTokens, "put_marks", lambda self, messages: (messages, None)),
    ],
)
def test_a_difference_is_found(tmp_path, monkeypatch, kind, name, wrong):
    monkeypatch.setattr(kind, name, wrong)
    outcomes = templates.compare_template((templates.OWN / "qwen3.jinja").read_text(), tmp_path)
    assert any(outcome.startswith("unequal: at id") for outcome in outcomes.values())


def test_a_template_without_a_place_for_a_system_prompt_is_counted(tmp_path):
    outcomes = templates.compare_template("{{ messages[-1].content }}", tmp_path)
    assert outcomes["no system"] == "equal" and outcomes["system"] == "no place for a system prompt"
