r"""The page: a window for an engineer on call, and the few things that can be done from it.

::

    state.json  ->  verdict (one sum, endpoints, a verdict)  \
    the folders ->  events (live tail), letters (dead)        >  live  ->  server-sent events  ->  static/*.js
    run_dir     ->  jobs (retry, discard)                    /

Every worker can answer for all: what the page shows lies in the run_dir and in the folders.  The first question at the
top is whether anything is being lost; the rest is there to answer the second one.

``safety`` holds what a browser is told and asked; ``app`` the paths and who may use them.  The page works without
anything from elsewhere, without inline script or style, and shows what events say as text only.
"""

from .app import build_page

__all__ = ["build_page"]
