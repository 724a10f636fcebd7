"""The HTTP API: FastAPI over `abc.Kernel`. Needs the extra `api`; nothing outside `serve` and its tests imports it.

parts.py      what the application is built of
app.py        the application: every route, every handler, the gate round them
gate.py       what a request passes before a route sees it: who may come from where, with which token, how often, how much
doors.py      the kernel of each caller, and how a route gets its own
envelope.py   answers and errors as they go over the wire
status.py     the one table from errors to status codes
serve.py      the server: sockets, time-outs, the end
routes/       what is asked and answered;  streams/  what flows
"""
