"""Two queues as one: what the first one cannot take just now goes to a local one, and flows back.

Why: the queue that machines share (Redis or Valkey Streams) is away now and then.  Its users' choice would be to wait,
which an application must not, or to refuse, which loses events.  With a journal beside it a put costs some microseconds
while the server is away, and what was put flows to the server when that is back.  The two know nothing of each other:
this is a Queue over two Queues, and knows only the protocol.

Reading order: ``flow`` (the way back, and the count of what is under way) -> ``carrier`` (the thread that moves where
there is no sender) -> ``queue`` (the face).

*Which refusals spill*: the first queue is unavailable (away, loading, not confirmed by its replicas, unusable), or
full for a reason of its own (a server at its ``maxmemory``).  Its bound that was configured does not: ``bytes_max`` and
``overflow`` say what is to be done there, and a second bound behind them would only be a larger first one.

*Order*: while anything of this process waits in the spill, its puts go there, too, behind it.  So what one process puts
for one endpoint arrives at the first queue in its order.  One exception: where the spill refuses and the first queue
does not, an event goes there, ahead of its turn; it would be lost otherwise.

*Who moves*: the sender's thread, in ``tend``; in a process without one, a thread that lives while there is something.
The spill is written as by a process that sends, so no other process takes from it while this one lives.  What a
process leaves there is adopted by whoever has the folder open, and moved to the first queue; or delivered straight to
its endpoint by a plain ``eventpost send --journal``.

*The count*: what the spill calls delivered is what has moved, and the first queue counts it from then on.  What waits
in the spill is queued.
"""

from .queue import SpillQueue

__all__ = ["SpillQueue"]
