"""The host end of the guest protocol: `sandbox.open_sandbox` over any `boundary.Boundary`."""
