"""Several workers that train one network: who is there, and the sums of their gradients."""
