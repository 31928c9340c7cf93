"""docs/known-attacks.md agrees with the tests, and lists every attack of the catalog."""

from __future__ import annotations

from sidespawn.errors import Reason
from tests.attacks import catalogue


def test_the_page_is_that_of_the_tests_and_their_results() -> None:
    again = "run: .venv/bin/python -m tests.attacks.catalogue"
    assert catalogue.PAGE.read_text() == catalogue.page(), again


def test_every_attack_is_carried_out_or_has_a_reason_why_not() -> None:
    assert list(catalogue.TITLES) == [*range(1, 273)]
    carried = {each.number for each in catalogue.carried_out()}
    assert carried | set(catalogue.NOT_APPLICABLE) == set(catalogue.TITLES)
    assert not carried & set(catalogue.NOT_APPLICABLE)
    assert set(catalogue.STAYS_POSSIBLE) <= carried


def test_answers_are_reasons() -> None:
    assert {each.answer for each in catalogue.carried_out()} - {""} <= {str(reason) for reason in Reason}


def test_the_results_are_of_tests_that_are_there() -> None:
    there = {each.test.partition("::")[2] for each in catalogue.carried_out()}
    parametrized = {"test_the_same_is_asked_of_a_pattern_without_a_policy"}  # has a marker on each row
    parametrized |= {"test_an_exploited_program_tries_to_get_out_theirs", "test_an_exploited_program_reaches_it_theirs"}
    assert {name.partition("[")[0] for name in catalogue.results()} <= there | parametrized


def test_both_columns_were_tried() -> None:
    verdicts = catalogue.theirs().values()
    assert sum(each.startswith("succeeded") for each in verdicts) > 20
