"""Redis or Valkey Streams: the queue that machines share.

Why: when one machine is not enough, or its disk is not to be trusted, applications, relays and senders on many machines
put into and claim from one place.  Nothing else changes.

Reading order: ``address`` (what an URL says; pure) -> ``names`` (keys; pure) -> ``entry`` (the bytes; pure) ->
``lua/`` (all that changes the server's data, one script an operation) -> ``timed`` (a socket with a deadline) ->
``client`` (one connection; the only file that imports redis) -> ``node``, ``route`` (which server a part is on, and
whether to ask it just now) -> ``check`` (what a server is, and what it keeps; pure) -> ``server`` (that, known in time)
-> ``put``, ``commit`` (put) -> ``held``, ``hand`` (what this process has in hand) -> ``holding`` (leases) -> ``claims``
(claim) -> ``settling`` (ack, release, bury) -> ``count`` (the sum) -> ``keeper`` (what is done now and then) ->
``queue`` (the face) -> ``shown``, ``inspect`` (what people are shown of the whole fleet, and dead letters).

**Shards.**  A queue is ``shards`` independent parts.  All keys of a part share one hash tag, so each script works on
one slot and the parts spread over a Redis Cluster.  A process puts into one part, its *home*, which it is dealt in
turn: so its events keep their order, and a fleet's processes spread evenly.  Senders claim from all parts.

**Keys** of part ``k`` of a queue called ``NAME``, all beginning with ``{NAME:k}:``

==============  =======  ==============================================================================================
key             type     meaning
==============  =======  ==============================================================================================
``lanes``       hash     endpoint URL -> events in its stream that nobody has claimed yet
``digests``     hash     endpoint URL -> its digest, ``<lane>``, which is what its keys are called by
``s:<lane>``    stream   one endpoint's entries; ``<lane>`` is a digest of the URL.  One consumer group, ``g``, whose
                         consumers are writer ids.  Fields: ``w`` writer, ``n`` events, ``d`` the bytes (``entry``)
``p:<lane>``    hash     entry id -> one byte for each of its events, ``1`` if settled; only of entries that are settled
                         in part
``w:<writer>``  hash     what became of the events that this writer put: ``a`` accepted, ``d`` delivered, ``x`` dead,
                         ``-<reason>`` dropped; ``s:<slot>`` the last put of one of its connections, its mark, and
                         where it lies.  Expires 30 days after the last change
``sum``         hash     the same for the whole part, over all writers and for good; ``b`` bytes stored, ``xb`` bytes
                         of dead letters
``dead``        stream   dead letters, one an entry: ``d`` the event, ``r`` reason, ``c`` status, ``t`` an excerpt of
                         the answer, ``k`` attempts, ``u`` endpoint URL, ``l`` its digest, ``w`` writer,
                         ``o`` where it lay
``meta``        hash     of part 0 only: ``format``, ``shards``, ``writers`` (how many came so far)
==============  =======  ==============================================================================================

**An event's way.**  A put is one script call: it looks whether there is room, appends one entry for each endpoint, and
counts.  All events of an endpoint that are put together are one entry, puts of several threads that wait for each other
too: entries are what costs.  A claim takes entries off the group and keeps them in the process; events are leased from
there one by one.  An entry stays pending for this process (in the server's list, with its idle time) while any of its
events is leased or waits here; what is settled of it before the rest is noted in ``p:``, so ids stay what they are, an
answer that comes late still finds its event, and no payload is written twice.  With its last event the entry goes.

**Leases** are timed by the server's clock: what a process holds and has not renewed for ``lease_s`` may be taken by any
other.  Before an event is handed out again, or buried, a script asks whether it still is this process's; an ack is a
fact and asks nobody.  A process that was stopped for longer so learns that its leases are gone.

**The count** is changed in the scripts that move events, per writer, so it can be read anywhere and outlives
everybody.  Where a process knows of more events than the server does (it was emptied, or came back without the end of
its log), what is missing is ``dropped: vanished``.

**Not knowing.**  A put whose answer did not come is repeated within its time, by the same number: the script ignores
what it has seen.  If time runs out it is refused, and voided before that connection's next put: taken back where
nobody has claimed it yet, and kept from ever happening if it has not happened.  What was claimed meanwhile is delivered
all the same, and counted as accepted, too.
"""

from .queue import RedisStreamsQueue

__all__ = ["RedisStreamsQueue"]
