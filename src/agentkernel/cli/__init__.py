"""The command line. `main` is the process, `verbs` the lazy table of verbs; everything else is shared by verbs.

What is imported decides how fast a verb starts, so each verb's module is imported only when it is used.
"""
