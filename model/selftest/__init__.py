"""A test of a machine: training must compute the same there as elsewhere.

    python -m model.selftest --gpus 0,1

prints a report of one page: what the machine is, and a line for each thing that was tried.
README.md in this folder says what each line means.

Each check runs in a process of its own (`model.selftest.children`), so that a device that crashes
or hangs ends its own check alone:

    __main__ --Setup--> children --Setup, as JSON--> child --> check(setup) --[Result]--> report

A check is a module with a function `check(setup) -> [Result]`.
"""
