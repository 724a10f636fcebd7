"""Pure decisions: what a request, a profile and this host's abilities add up to. No I/O."""
