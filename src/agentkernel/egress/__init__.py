"""The egress proxy: what a sandbox's programs reach outside goes through it, or not at all (docs/egress.md).

In the engine's process: `gate` (an `abc_network.Egress`), `child` (the process and its end), `session` (a sandbox's place at the gate).
In the egress process: `__main__`, `confine` and `landlock` (what it gives up), `server` (the control socket), `sandbox` (one sandbox's
stream, rules and limits), `tunnel` (one connection of the sandbox's), `upstream` and `relay` (the other side of it, and the bytes between),
`reach`, `resolving`, `own` and `connecting` (name -> judged address -> connection), `proxied` (the same by a company's proxy),
`attempt` and `telling` (what is decided), `names` (addresses that stand for names). With the programs speak `dispatch`, `forwarding`,
`opening` and `resolver`; `vault`, `authority`, `tls_stream` and `terminate` put in credentials that no sandbox sees.
Between the two: `stream` (frames on a socket) and `messages` (JSON on the control socket).
Bytes from a sandbox are parsed by `http*`, `socks`, `dns` and `tls`, which do no input or output.
"""
