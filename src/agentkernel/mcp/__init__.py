"""The Model Context Protocol: sandboxes as tools of a language model, within what the operator's settings allow.

`server.build` makes the server of the official SDK; `stdio` and `http` are its two transports. What a model may not do is decided in
two places: `wishes` (it tightens what the operator's settings say, and never loosens) and `desk` (it sees sandboxes that were made here).
"""
