"""The conformance suite that every backend passes, for third parties to subclass: `testing.conformance.BackendConformance`.

Needs pytest and pytest-asyncio (auto mode). Put this into the conftest.py of the tests, so that failing assertions show their values:

    pytest.register_assert_rewrite("agentkernel.testing")
"""
