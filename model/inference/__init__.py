"""A trained network at work: scored, asked, made smaller. Imported after model.devices'
import_mxnet."""
