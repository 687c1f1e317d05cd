"""The work of data.verify: every record read, copied without the bad ones, drawn."""
