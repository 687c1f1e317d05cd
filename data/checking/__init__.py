"""The work of data.verify: reads, copies and draws records."""
