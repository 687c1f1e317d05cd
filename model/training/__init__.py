"""A training run: how a plan becomes a run, what trains, what happens after each batch and epoch.

resolve      from the plan (model.plan) to a `Run` (run): claiming, resume, origin, hardware,
             start, batches, reporting
module       the Module that trains: state (all of it as arrays), average, finetune,
             optimizers, schedule (the learning rate of each update)
callbacks    after a batch and an epoch: figures, checks, saving, validation, patience, stopping
speed        what --benchmark measures: benchmark; memory: what training will need
"""
