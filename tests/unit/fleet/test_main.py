"""Does main take what a process says for what it may mean? On the model, with which the SQL is compared."""

from __future__ import annotations

from uuid import UUID

from tenantproxy.fleet.values import Census, Claim, FleetReport, ServerGrant, Terms
from tests.support.fleet_main import ModelMain

TTL = 15_000
TERMS = Terms(cap=40, floor=1, burst=2)
A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)


class Talk:
    """Reports to a model of main, whose clock goes on by a second with each."""

    def __init__(self) -> None:
        self.main = ModelMain(TTL)
        self._seq = 0
        self._now = 0

    def say(
        self,
        process: UUID,
        *,
        used: int = 0,
        want: float = 0.0,
        keep: int = 40,
        lowers: bool = False,
        epoch: int = -1,
        pids: tuple[int, ...] = (),
        census: tuple[Census, ...] = (),
        buried: tuple[UUID, ...] = (),
    ) -> ServerGrant:
        self._seq += 1
        self._now += 1000
        claim = Claim(server="one", used=used, want=want, keep=keep, lowers=lowers, terms=TERMS, epoch=epoch, pids=pids)
        answer = self.main.sync(
            FleetReport(process=process, seq=self._seq, claims=(claim,), census=census, buried=buried), self._now
        )
        assert not isinstance(answer, str)
        return answer[0]

    def until_silent(self, process: UUID, alive: UUID) -> ServerGrant:
        """`alive` goes on until `process` counts as silent."""
        answer = self.say(alive, used=1)
        while not self.main.rows[process].silent:
            answer = self.say(alive, used=1)
        return answer


def count(epoch: int, *pids: int) -> tuple[Census, ...]:
    return (Census(server="one", epoch=epoch, pids=pids),)


def test_a_report_that_lowers_nothing_does_not_undo_a_raise_on_its_way() -> None:
    talk = Talk()
    granted = talk.say(A, want=10).granted
    assert granted > 10
    talk.say(A, want=10, keep=3)
    assert talk.main.rows[A].granted == granted
    assert talk.say(A, want=1, keep=3, lowers=True).granted < granted


def test_a_silent_process_is_charged_with_what_it_used_until_a_census() -> None:
    talk = Talk()
    talk.say(A, want=20, used=20)
    charged = talk.main.rows[A].charge
    answer = talk.until_silent(A, B)
    assert talk.main.rows[A].charge == charged
    assert (answer.counted, answer.epoch) == (True, 1)
    talk.say(B, epoch=answer.epoch, census=count(answer.epoch, 100, 101, 102))
    assert (talk.main.rows[A].charge, talk.main.ghosts) == (2, 3)


def test_a_census_of_an_older_epoch_counts_for_nothing() -> None:
    talk = Talk()
    talk.say(A, want=20, used=20)
    former = talk.main.epoch
    talk.until_silent(A, B)
    charged = talk.main.rows[A].charge
    talk.say(B, census=count(former))
    assert talk.main.rows[A].charge == charged


def test_process_ids_that_were_said_in_another_epoch_claim_nothing() -> None:
    talk = Talk()
    talk.say(A, want=20, used=20)
    answer = talk.until_silent(A, B)
    talk.say(C, epoch=answer.epoch - 1, pids=(100,), used=1)  # the server has given the id to A's since
    talk.say(B, epoch=answer.epoch, pids=(200,), census=count(answer.epoch, 100, 200))
    assert talk.main.ghosts == 1


def test_one_process_after_the_other_is_the_witness() -> None:
    talk = Talk()
    talk.say(A, want=5)
    talk.until_silent(A, B)
    witnesses = {process for _ in range(12) for process in (B, C) if talk.say(process, used=1).is_witness}
    assert witnesses == {B, C}


def test_a_buried_process_is_forgotten_a_ttl_and_a_census_later() -> None:
    talk = Talk()
    talk.say(A, want=20)
    answer = talk.say(B, buried=(A,))
    assert talk.main.rows[A].silent
    answer = talk.say(B, used=1)
    for _ in range(TTL // 1000 + 1):
        talk.say(B, used=1, epoch=answer.epoch, census=count(answer.epoch))
    assert A not in talk.main.rows


def test_a_process_that_is_buried_alive_is_back_with_its_next_report() -> None:
    talk = Talk()
    talk.say(A, want=20)
    talk.say(B, buried=(A,))
    talk.say(A, want=20)
    assert not talk.main.rows[A].silent


def test_the_least_cap_that_is_reported_holds() -> None:
    talk = Talk()
    talk.say(A, want=100)
    talk.main.ceiling = 10
    talk.say(A, want=100, keep=5, lowers=True)
    assert talk.main.rows[A].target <= 10
