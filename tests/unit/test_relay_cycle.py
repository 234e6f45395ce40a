"""What lets a request's application begin without a task: the bell, and going on with one where it waits after all."""

import asyncio

import pytest

from eventpost.relay.cycle import Bell, go_on


async def begun(application):
    """Begin an application at once, and go on with it as a task where it waits; returns what it did."""
    done = []
    running = application(done)
    try:
        waited_for = running.send(None)
    except StopIteration:
        return done
    await asyncio.create_task(go_on(running, waited_for))
    return done


def test_an_application_that_never_waits_needs_no_task():
    """It has done everything by the time it was begun."""

    async def application(done):
        done.append("all")

    async def scenario():
        done = []
        running = application(done)
        with pytest.raises(StopIteration):
            running.send(None)
        return done

    assert asyncio.run(scenario()) == ["all"]


def test_an_application_that_waits_goes_on():
    """For futures, bells and time, again and again, in order, results and errors included."""

    async def application(done):
        loop = asyncio.get_running_loop()
        for number in range(3):
            future = loop.create_future()
            loop.call_later(0.01, future.set_result, number)
            done.append(await future)
        failing = loop.create_future()
        loop.call_soon(failing.set_exception, ValueError("no"))
        try:
            await failing
        except ValueError as error:
            done.append(str(error))
        bell = Bell()
        loop.call_soon(bell.set)
        await bell.wait()
        await asyncio.wait_for(asyncio.sleep(0.01), 5)  # what needs to know its task finds one by now
        done.append("end")

    assert asyncio.run(begun(application)) == [0, 1, 2, "no", "end"]


def test_it_can_be_cancelled():
    """A task that is cancelled cancels what it goes on with."""

    async def application(done):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            done.append("cancelled")
            raise

    async def scenario():
        done = []
        running = application(done)
        task = asyncio.create_task(go_on(running, running.send(None)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return done

    assert asyncio.run(scenario()) == ["cancelled"]


def test_a_bell_is_an_event():
    """Rung before or after somebody waits, by one or several; cleared, the next one waits."""

    async def scenario():
        bell = Bell()
        bell.set()
        await bell.wait()
        bell.clear()
        waiting = [asyncio.create_task(bell.wait()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        bell.set()
        await asyncio.gather(*waiting)
        bell.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(), 0.05)

    asyncio.run(scenario())
