"""Whoever has not seen the last reap is waited for, and nobody for longer than is sensible."""

from __future__ import annotations

from observability.http._scrapes import Scrapes


def test_nobody_is_waited_for_who_never_came() -> None:
    assert Scrapes().waits_for(1, now=100.0) == 0


def test_a_scraper_that_has_not_seen_the_reap_is_waited_for_two_intervals() -> None:
    scrapes = Scrapes()
    for moment in (0.0, 15.0, 30.0):
        scrapes.came("prometheus", 0, now=moment)
    assert scrapes.waits_for(0, now=31.0) == 0
    assert scrapes.waits_for(1, now=31.0) == 29
    assert scrapes.waits_for(1, now=61.0) == 0
    scrapes.came("prometheus", 1, now=45.0)
    assert scrapes.waits_for(1, now=46.0) == 0


def test_each_of_several_has_to_come() -> None:
    scrapes = Scrapes()
    for who, every in (("one", 10.0), ("two", 60.0)):
        scrapes.came(who, 0, now=0.0)
        scrapes.came(who, 0, now=every)
    scrapes.came("one", 1, now=62.0)
    assert scrapes.waits_for(1, now=62.0) == 118


def test_a_person_who_looked_once_is_not_waited_for_but_prometheus_is() -> None:
    scrapes = Scrapes()
    scrapes.came("curl", 0, now=0.0)
    assert scrapes.waits_for(1, now=1.0) == 0
    scrapes.came("prometheus", 0, timeout=10.0, now=0.0)
    assert scrapes.waits_for(1, now=1.0) == 19


def test_the_wait_has_a_bound_whatever_the_interval() -> None:
    scrapes = Scrapes()
    scrapes.came("prometheus", 0, now=0.0)
    scrapes.came("prometheus", 0, now=86_400.0)
    assert scrapes.waits_for(1, now=86_400.0) == 300


def test_of_very_many_the_first_are_forgotten() -> None:
    scrapes = Scrapes()
    for number in range(100):
        scrapes.came(f"one of many {number}", 0, timeout=10.0, now=0.0)
    scrapes.came("one of many 0", 0, now=50.0)
    assert scrapes.waits_for(1, now=100.0) == 0
    assert len(scrapes._scrapers) == 16
