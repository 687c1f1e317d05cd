"""The first minutes on a machine: does training compute there what it computes elsewhere?

    python -m model.selftest --gpus 0,1

prints a report of one page: what the machine is, and a line for each thing that was tried.

    xception self-test 2026-11-25T16:20:00+0000, commit 0123456789ab
    command   python -m model.selftest --gpus 0,1
    machine   AMD EPYC 7543, 32 cores, 257000 MB, Linux 5.15.0 x86_64
    gpu(0)    ...
    driver    ...
    software  python 3.11.9, mxnet-cu112 1.9.1, numpy 1.23.5 ...
    loaded    libcudnn.so.8 8.9.6, libnccl.so.2 2.20.5 ...
    variables CUDA_VISIBLE_DEVICES=0,1

    pass  gpu(0) float32             outputs 4e-07, gradients 3e-05, ... | 1e-04, 1e-03 ...
    FAIL  gpu(1) float32             ...
    -     kvstore nccl               not run: ...

    1 of 14 failed: gpu(1) float32

A line is: pass, FAIL or -, which is for what could not be tried here; what was tried; its figure;
after the bar, what the figure must be. README.md beside this file says what each line means.

Each check runs in a process of its own (`model.selftest.children`), so that a device that crashes
or hangs ends its own check alone:

    __main__ --Setup--> children --Setup, as JSON--> child --> check(setup) --[Result]--> report

A check is a module with a function `check(setup) -> [Result]`.
"""
