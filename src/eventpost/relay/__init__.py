"""The relay: one safe hop for every SDK.  It takes what the event endpoint takes, and says 204 once it is stored.

::

    SDKs, browsers                  worker                            main process
    POST /v1/events   ->   protocol -> app -> ingest -> journal   ->  sender -> the endpoint
                           (uvicorn)          access, body            state.json, one line at the end

Processes.  The main process (``supervisor``) binds the listening socket once, starts the workers, starts one again that
died, and sends: it has one dispatcher for each journal, its own and those that applications on the host wrote.  A
worker (``worker``) accepts from the inherited socket and only stores (``sender="none"``): into segments of its own, so
workers never wait for each other, and what a killed one stored is in the folder.  Each worker holds one end of a pair
of sockets; its other end goes with the main process, and then the worker stops as if it had been told to.

A request's way.  ``protocol`` bounds what arrives before there is a request: the header's bytes and time, connections,
senders that stall.  ``app`` finds the path; ``access`` says who may; ``body`` reads, unpacks and looks whether it is a
batch; ``ingest`` stores it and answers.  At ``os`` a put takes microseconds and is made on the loop.  At ``fsync``
requests that wait at the same time are put together by ``commit``: one sync, and the answers after it.

Where events go is decided by the path and by the settings, never by what a request says: there is no URL in it that is
read.  ``settings`` is the one table behind file, environment, flags and documentation.

What all processes share at run time lies in a private folder (the run_dir) that goes with the main process: the
counters' files, and ``state.json``, which the main process writes and every worker reads, so that whichever answers
shows the sum of all.
"""
