"""The work behind data.verify: every record read, copied without the bad ones, drawn."""
