"""A trained network at work: scored, asked, made smaller. To be imported after
`model.devices.import_mxnet`, except `preprocessing`, which the commands' arguments need."""
