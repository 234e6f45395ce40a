"""The endpoint matrix: what every fault of an endpoint does to the events; docs/endpoints.md is its table."""

import itertools

import pytest
from proof.endpoint_faults import FAULTS, TRANSPORTS, Fault
from proof.endpoint_page import PAGE, page
from proof.endpoints import MissingError, run_cell
from tests.support import missing


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_an_endpoint(fault: Fault, transport: str) -> None:
    """Nothing is lost, no wait is without bound, and the ledger says what happened."""
    try:
        run_cell(fault, transport)
    except MissingError as error:
        missing(str(error).removeprefix("needs "))


def test_the_page_is_the_table() -> None:
    """docs/endpoints.md says what the rows say: ``python -m proof endpoints --write-page`` writes it."""
    assert PAGE.read_text() == page()


def test_every_status_has_one_row() -> None:
    """Each status from 200 to 599 stands in exactly one row."""
    statuses = list(itertools.chain.from_iterable(fault.codes for fault in FAULTS))
    assert sorted(statuses) == list(range(200, 600))
