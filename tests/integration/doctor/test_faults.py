"""Does the audit name each planted fault, and nothing else, and does its own SQL take the fault away?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tenantproxy.config import load
from tenantproxy.demo.world import MAIN, World
from tenantproxy.lifecycle.doctor import AuditReport, DoctorFinding, examine
from tests.support.doctor_faults import FAULTS, PlantedFault, groups
from tests.support.waiting import until

EVERYWHERE = [fault for fault in FAULTS if not fault.needs_contrib]
GROUPS = groups(EVERYWHERE, main=MAIN)
LARGEST = sorted(GROUPS, key=len)[-2:]


async def look(world: World) -> AuditReport:
    return await examine(load(world.config))


async def run(world: World, database: str, *statements: str) -> None:
    """Each by itself, as the superuser."""
    conn = await world.connect(database)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


def codes(report: AuditReport) -> list[str]:
    """Of all findings, sorted."""
    return sorted(finding.code for finding in report.findings)


async def clean(world: World) -> bool:
    """Whether nothing is found."""
    return not (await look(world)).findings


def expected(group: Sequence[PlantedFault]) -> list[tuple[str, str]]:
    """Code and object of each."""
    return sorted((fault.code, fault.object) for fault in group)


def found(report: AuditReport, group: Sequence[PlantedFault]) -> list[tuple[str, str]]:
    """Without those that come with another one."""
    besides = {fault.besides for fault in group if fault.besides}
    return sorted((each.code, each.object) for each in report.findings if each.code not in besides)


async def repaired(world: World, findings: Sequence[DoctorFinding]) -> None:
    for finding in findings:
        await run(world, finding.database or MAIN, *finding.sql)


async def planted_and_repaired(world: World, group: Sequence[PlantedFault]) -> None:
    try:
        for fault in group:
            await run(world, fault.database, *fault.plant)
        report = await look(world)
        if any(fault.name == "parameters_logged" for fault in group):  # a reload takes a moment

            async def is_told() -> bool:
                return "TPD033" in {each.code for each in (await look(world)).findings}

            await until(is_told, "the settings are read again", timeout=20.0)
            report = await look(world)
        assert found(report, group) == expected(group)
        assert all(each.sql for each in report.findings if each.code in {fault.code for fault in group})
        await repaired(world, report.findings)
        await repaired(world, (await look(world)).findings)  # what had to wait for another repair
        await until(lambda: clean(world), "nothing is found", timeout=20.0)
    finally:
        for fault in group:
            await run(world, fault.database, *fault.cleared)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(fault.name for fault in group)[:60])
async def test_planted_faults_are_named_and_nothing_else(sick: World, group: Sequence[PlantedFault]) -> None:
    await planted_and_repaired(sick, group)


async def test_the_same_faults_are_named_on_older_versions(each_sick: World) -> None:
    for group in LARGEST:
        await planted_and_repaired(each_sick, group)


def test_more_than_forty_faults_of_as_many_rules_are_planted() -> None:
    assert len(EVERYWHERE) >= 40
    assert len({fault.code for fault in EVERYWHERE}) >= 40
