"""Findings: how they are ordered, and what of them is shown."""

from common.findings import Finding, to_mend, worst

OK = Finding("a", "ok", "fine")
NOTE = Finding("b", "note", "so it is")
UNSEEN = Finding("c", "unseen", "could not look")
WARNING = Finding("d", "warning", "not good", "it costs", "mend it")
FAULT = Finding("e", "fault", "broken")


def test_the_worst_of_none_is_ok() -> None:
    """Nothing looked at, nothing wrong."""
    assert worst([]) == "ok"


def test_what_could_not_be_seen_is_no_warning() -> None:
    """It outweighs what is fine, so that it is not hidden, and asks for nothing."""
    assert worst([OK, UNSEEN, NOTE]) == "unseen"
    assert to_mend([OK, UNSEEN, NOTE]) == []


def test_faults_come_first() -> None:
    """The gravest is what somebody reads first."""
    assert to_mend([OK, WARNING, NOTE, FAULT]) == [FAULT, WARNING]
    assert worst([WARNING, FAULT, OK]) == "fault"


def test_empty_parts_are_left_out() -> None:
    """Neither a line nor a document has words for what a finding does not say."""
    assert WARNING.line() == "d: not good; it costs; remedy: mend it"
    assert OK.line() == "a: fine"
    assert OK.to_dict() == {"check": "a", "severity": "ok", "what": "fine"}
